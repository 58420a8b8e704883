import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.FileReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Security;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.util.Collection;
import java.util.Set;

import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.X509TrustManager;

import org.bouncycastle.asn1.ASN1ObjectIdentifier;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.est.CSRAttributesResponse;
import org.bouncycastle.est.ESTAuth;
import org.bouncycastle.est.ESTException;
import org.bouncycastle.est.ESTService;
import org.bouncycastle.est.EnrollmentResponse;
import org.bouncycastle.est.jcajce.JcaHttpAuthBuilder;
import org.bouncycastle.est.jcajce.JcaJceUtils;
import org.bouncycastle.est.jcajce.JsseDefaultHostnameAuthorizer;
import org.bouncycastle.est.jcajce.JsseESTServiceBuilder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.jsse.provider.BouncyCastleJsseProvider;
import org.bouncycastle.openssl.PEMParser;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;
import org.bouncycastle.pkcs.PKCS10CertificationRequest;
import org.bouncycastle.util.Store;

/**
 * An EST client on Bouncy Castle, its TLS included: Peer HOST:PORT IDENTITY.pem|none CA.pem
 *
 * Reads from standard input, a line each, `cacerts`, `csrattrs`, `renew CSR OUT` and
 * `enrol CSR OUT USER TOKEN`, the CSR in DER; answers each with a line: the status, then how many
 * certificates, the attributes, how many bytes went to OUT, when to ask again, or what went wrong.
 * `none` is no answer at all. After a 202 `again OUT` sends the same request once more.
 */
public final class Peer {
    private static final int MILLISECONDS = 15_000;
    private static final char[] PASSWORD = "peer".toCharArray();

    private final ESTService service;
    private EnrollmentResponse pending;

    public static void main(String[] words) throws Exception {
        Security.addProvider(new BouncyCastleProvider());
        Security.addProvider(new BouncyCastleJsseProvider());
        Peer peer = new Peer(words[0], words[1], words[2]);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            System.out.println(peer.answer(line.split(" ")).replaceAll("\\s+", " "));
        }
    }

    private Peer(String address, String identity, String authority) throws Exception {
        X509Certificate trusted;
        try (InputStream file = new FileInputStream(authority)) {
            trusted = (X509Certificate) CertificateFactory.getInstance("X.509").generateCertificate(file);
        }
        X509TrustManager[] trust =
                JcaJceUtils.getCertPathTrustManager(Set.of(new TrustAnchor(trusted, null)), null);
        JsseESTServiceBuilder builder = new JsseESTServiceBuilder(address, trust);
        builder.withProvider(BouncyCastleJsseProvider.PROVIDER_NAME).withTLSVersion("TLSv1.3");
        builder.withHostNameAuthorizer(new JsseDefaultHostnameAuthorizer(Set.of()));
        builder.withFilterCipherSuites(false).withTimeout(MILLISECONDS);
        if (!identity.equals("none")) {
            builder.withKeyManagers(own(identity).getKeyManagers());
        }
        service = builder.build();
    }

    private static KeyManagerFactory own(String file) throws Exception {
        try (PEMParser parser = new PEMParser(new FileReader(file))) {
            PrivateKey key = new JcaPEMKeyConverter().getPrivateKey((PrivateKeyInfo) parser.readObject());
            X509CertificateHolder holder = (X509CertificateHolder) parser.readObject();
            Certificate certificate = CertificateFactory.getInstance("X.509")
                    .generateCertificate(new java.io.ByteArrayInputStream(holder.getEncoded()));
            KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
            store.load(null, null);
            store.setKeyEntry("own", key, PASSWORD, new Certificate[] {certificate});
            return JcaJceUtils.createKeyManagerFactory(
                    "PKIX", BouncyCastleJsseProvider.PROVIDER_NAME, store, PASSWORD);
        }
    }

    private String answer(String[] words) {
        try {
            switch (words[0]) {
                case "cacerts":
                    return "200 " + all(service.getCACerts().getCertificateStore()).size();
                case "csrattrs":
                    return "200 " + attributes(service.getCSRAttributes().getAttributesResponse());
                case "renew":
                    return enrolled(service.simpleEnroll(true, request(words[1]), null), words[2]);
                case "enrol":
                    ESTAuth auth = new JcaHttpAuthBuilder(words[3], words[4].toCharArray()).build();
                    return enrolled(service.simpleEnroll(false, request(words[1]), auth), words[2]);
                case "again":
                    return enrolled(service.simpleEnroll(pending), words[1]);
                default:
                    return "unknown";
            }
        } catch (ESTException error) {
            return error.getStatusCode() > 0 ? error.getStatusCode() + " " + body(error) : "none " + error;
        } catch (Exception error) {
            return "none " + error;
        }
    }

    private String enrolled(EnrollmentResponse response, String out) throws IOException {
        pending = response;
        if (!response.isCompleted()) {
            return "202 " + Math.round((response.getNotBefore() - System.currentTimeMillis()) / 1000.0);
        }
        X509CertificateHolder made = all(response.getStore()).iterator().next();
        Files.write(Path.of(out), made.getEncoded());
        return "200 " + made.getEncoded().length;
    }

    private static PKCS10CertificationRequest request(String file) throws IOException {
        return new PKCS10CertificationRequest(Files.readAllBytes(Path.of(file)));
    }

    private static Collection<X509CertificateHolder> all(Store<X509CertificateHolder> store) {
        return store.getMatches(null);
    }

    private static String attributes(CSRAttributesResponse response) {
        StringBuilder found = new StringBuilder();
        for (ASN1ObjectIdentifier one : response.getRequirements()) {
            found.append(one).append(' ');
        }
        return found.toString().trim();
    }

    private static String body(ESTException error) throws RuntimeException {
        try (InputStream body = error.getBody()) {
            return body == null ? "" : new String(body.readAllBytes(), StandardCharsets.UTF_8);
        } catch (IOException failed) {
            return failed.toString();
        }
    }
}
