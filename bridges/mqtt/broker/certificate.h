/* Who a client certificate names, and whether one of our own authorities issued it.
 *
 * TLS has already proved the key, the chain and the dates. But the trust file of a listener must
 * hold the root as well (OpenSSL wants a complete chain), and under the root a service authority
 * could vouch for a device. So the issuer itself is checked again, against a list.
 */
#ifndef FLEETCERT_CERTIFICATE_H
#define FLEETCERT_CERTIFICATE_H

#include <stdbool.h>
#include <stddef.h>

#include <openssl/x509.h>

#include "refusals.h"
#include "stamp.h"

#define DEVICE_ID_SIZE 65
#define URN_PREFIX "urn:fleetcert:device:"

struct identity {
	char name[DEVICE_ID_SIZE];
	char fingerprint[SHA256_HEX_SIZE];
};

/* Reads the PEM certificates of the issuers of one listener; NULL (and `error`) on failure. */
STACK_OF(X509) *issuers_open(const char *path, char *error, size_t error_size);

/* Fills in `identity`; returns NULL, or the name of the reason to refuse this certificate.
 * What could be read is in `identity` either way. A device needs SAN URI = urn + CN. */
const char *identify(struct identity *identity, X509 *certificate, STACK_OF(X509) *issuers,
	bool device);

#endif
