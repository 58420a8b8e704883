import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.Certificate;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

import org.eclipse.californium.core.CoapClient;
import org.eclipse.californium.core.CoapHandler;
import org.eclipse.californium.core.CoapObserveRelation;
import org.eclipse.californium.core.CoapResponse;
import org.eclipse.californium.core.coap.Request;
import org.eclipse.californium.core.config.CoapConfig;
import org.eclipse.californium.core.network.CoapEndpoint;
import org.eclipse.californium.elements.Connector;
import org.eclipse.californium.elements.config.Configuration;
import org.eclipse.californium.elements.util.SslContextUtil;
import org.eclipse.californium.elements.util.SslContextUtil.Credentials;
import org.eclipse.californium.scandium.DTLSConnector;
import org.eclipse.californium.scandium.config.DtlsConfig;
import org.eclipse.californium.scandium.config.DtlsConnectorConfig;
import org.eclipse.californium.scandium.dtls.CertificateType;
import org.eclipse.californium.scandium.dtls.x509.SingleCertificateProvider;
import org.eclipse.californium.scandium.dtls.x509.StaticNewAdvancedCertificateVerifier;

/**
 * A CoAP client on Californium and Scandium: Peer BASE IDENTITY.pem|none CA.pem
 *
 * Reads from standard input, a line each, `get PATH ACCEPT`, `post PATH FORMAT FILE` and
 * `observe PATH ACCEPT`; answers each with a line: code, content format, bytes, text.
 * The observation ends with its second notification. No coaps+tcp: Californium sends no
 * capabilities over TCP, which RFC 8323 section 5.3 demands as the first message.
 */
public final class Peer {
    private static final int BODY_BYTES_MAX = 200_000;
    private static final long SECONDS = 15;

    public static void main(String[] words) throws Exception {
        CoapConfig.register();
        DtlsConfig.register();
        String base = words[0];
        Configuration configuration = Configuration.createStandardWithoutFile();
        configuration.set(CoapConfig.MAX_RESOURCE_BODY_SIZE, BODY_BYTES_MAX);
        configuration.set(CoapConfig.PREFERRED_BLOCK_SIZE, 512);
        configuration.set(CoapConfig.MAX_MESSAGE_SIZE, 1024);
        Credentials own = words[1].equals("none") ? null : SslContextUtil.loadCredentials(words[1]);
        Certificate[] trusted = SslContextUtil.loadTrustedCertificates(words[2]);
        Connector connector = dtls(configuration, own, trusted);
        CoapEndpoint endpoint = CoapEndpoint.builder()
                .setConfiguration(configuration).setConnector(connector).build();
        endpoint.start();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            answer(endpoint, base, line.split(" "));
        }
        endpoint.destroy();
        System.exit(0);
    }

    private static Connector dtls(Configuration configuration, Credentials own, Certificate[] trusted) {
        DtlsConnectorConfig.Builder builder = DtlsConnectorConfig.builder(configuration)
                .set(DtlsConfig.DTLS_ROLE, DtlsConfig.DtlsRole.CLIENT_ONLY)
                .setAdvancedCertificateVerifier(StaticNewAdvancedCertificateVerifier.builder()
                        .setTrustedCertificates(trusted).build());
        if (own != null) {
            builder.setCertificateIdentityProvider(new SingleCertificateProvider(
                    own.getPrivateKey(), own.getCertificateChain(), CertificateType.X_509));
        }
        return new DTLSConnector(builder.build());
    }

    private static void answer(CoapEndpoint endpoint, String base, String[] words) throws Exception {
        CoapClient client = new CoapClient(base + "/" + words[1]);
        client.setEndpoint(endpoint);
        client.setTimeout(SECONDS * 1000);
        int format = Integer.parseInt(words[2]);
        try {
            if (words[0].equals("observe")) {
                observe(client, format);
                return;
            }
            Request request = words[0].equals("post") ? Request.newPost() : Request.newGet();
            if (words[0].equals("post")) {
                request.setPayload(Files.readAllBytes(Path.of(words[3])));
                request.getOptions().setContentFormat(format);
            } else {
                request.getOptions().setAccept(format);
            }
            tell(client.advanced(request));
        } catch (Exception error) {
            System.out.println("none " + error);
        }
    }

    private static void observe(CoapClient client, int format) throws InterruptedException {
        CountDownLatch heard = new CountDownLatch(2);
        CoapObserveRelation relation = client.observe(new CoapHandler() {
            @Override
            public void onLoad(CoapResponse response) {
                tell(response);
                heard.countDown();
            }

            @Override
            public void onError() {
                System.out.println("none no answer");
                heard.countDown();
                heard.countDown();
            }
        }, format);
        heard.await(SECONDS, TimeUnit.SECONDS);
        relation.reactiveCancel();
    }

    private static synchronized void tell(CoapResponse response) {
        if (response == null) {
            System.out.println("none no answer");
            return;
        }
        String text = new String(response.getPayload(), StandardCharsets.UTF_8).replace('\n', ' ');
        System.out.println(response.getCode() + " " + response.getOptions().getContentFormat() + " "
                + response.getPayload().length + " " + text);
    }

    private Peer() {
    }
}
