/* Who a client certificate names, and which of our own authorities issued it.
 *
 * TLS has already proved the key, the chain and the dates. But the trust file of the device listener
 * must hold the root as well (OpenSSL wants a complete chain), and an authority beside the device CA
 * could stand under that root. So the issuer itself is checked again, against two lists.
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
	bool service; /* issued by a service CA; a device otherwise */
};

/* Who may have issued a client certificate directly. */
struct issuers {
	STACK_OF(X509) *devices, *services;
};

/* Reads the PEM certificates of issuers; NULL (and `error`) on failure. */
STACK_OF(X509) *issuers_open(const char *path, char *error, size_t error_size);

/* Fills in `identity`; returns NULL, or the name of the reason to refuse this certificate.
 * What could be read is in `identity` either way. A device needs SAN URI = urn + CN. */
const char *identify(struct identity *identity, X509 *certificate, const struct issuers *issuers);

#endif
