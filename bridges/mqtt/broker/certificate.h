/* Who a client certificate names, and which of our own authorities issued it.
 *
 * TLS has already proved the key, the chain and the dates. But the trust file of the device listener
 * must hold the root as well (OpenSSL wants a complete chain), and an authority beside the device CA
 * could stand under that root. So the issuer itself is checked again, against two lists.
 *
 * Whoever has a certificate that was signed by ECDSA can make its twin: where (r, s) verifies, so
 * does (r, n - s), and the certificate around it has another fingerprint. What is refused is
 * refused under both.
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

#define CERTIFICATE_SIZE_MAX 16384u /* DER, of a newcomer: its certificate is told whole */

struct identity {
	char name[DEVICE_ID_SIZE];
	char fingerprint[SHA256_HEX_SIZE];
	char twin[SHA256_HEX_SIZE]; /* its twin's fingerprint; its own where it has no twin */
	bool service;  /* issued by a service CA; a device or a newcomer otherwise */
	bool newcomer; /* issued by a provisioning CA: good for enrolment alone */
};

/* Who may have issued a client certificate directly; `provisioning` is NULL where nobody is let in
 * for enrolment. */
struct issuers {
	STACK_OF(X509) *devices, *services, *provisioning;
};

/* Reads the PEM certificates of issuers; NULL (and `error`) on failure. */
STACK_OF(X509) *issuers_open(const char *path, char *error, size_t error_size);

/* Tells whether a certificate stands in both lists; either may be NULL. */
bool issuers_overlap(STACK_OF(X509) *some, STACK_OF(X509) *others);

/* Gives a certificate's DER in base64; the caller frees it. NULL without memory, or when the DER
 * is longer than CERTIFICATE_SIZE_MAX. */
char *certificate_base64(X509 *certificate);

/* Fills in `identity`; returns NULL, or the name of the reason to refuse this certificate.
 * What could be read is in `identity` either way. A device and a newcomer need
 * SAN URI = urn + CN. */
const char *identify(struct identity *identity, X509 *certificate, const struct issuers *issuers);

#endif
