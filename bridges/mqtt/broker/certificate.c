#include "certificate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

STACK_OF(X509) *issuers_open(const char *path, char *error, size_t error_size)
{
	STACK_OF(X509) *issuers = sk_X509_new_null();
	FILE *stream = fopen(path, "r");
	X509 *each;

	while (stream != NULL && issuers != NULL
			&& (each = PEM_read_X509(stream, NULL, NULL, NULL)) != NULL)
		sk_X509_push(issuers, each);
	if (stream != NULL)
		fclose(stream);
	if (issuers != NULL && sk_X509_num(issuers) > 0)
		return issuers;
	snprintf(error, error_size, "no certificate can be read from the issuer file %s", path);
	sk_X509_free(issuers);
	return NULL;
}

bool issuers_overlap(STACK_OF(X509) *some, STACK_OF(X509) *others)
{
	for (int i = 0; i < sk_X509_num(some); i++)
		for (int j = 0; j < sk_X509_num(others); j++)
			if (X509_cmp(sk_X509_value(some, i), sk_X509_value(others, j)) == 0)
				return true;
	return false;
}

char *certificate_base64(X509 *certificate)
{
	unsigned char *der = NULL;
	int size = certificate == NULL ? -1 : i2d_X509(certificate, &der);
	char *text = NULL;

	if (size > 0 && (unsigned)size <= CERTIFICATE_SIZE_MAX)
		text = malloc(4 * ((size_t)size + 2) / 3 + 1);
	if (text != NULL)
		EVP_EncodeBlock((unsigned char *)text, der, size);
	OPENSSL_free(der);
	return text;
}

/* Gives the issuer of a certificate among `issuers`; NULL where none of them is. */
static X509 *issuer_among(STACK_OF(X509) *issuers, X509 *certificate)
{
	for (int i = 0; i < sk_X509_num(issuers); i++) {
		X509 *issuer = sk_X509_value(issuers, i);

		if (X509_check_issued(issuer, certificate) == X509_V_OK
				&& X509_verify(certificate, X509_get0_pubkey(issuer)) == 1)
			return issuer;
	}
	return NULL;
}

/* Reads the one common name of the subject. */
static bool common_name(char name[DEVICE_ID_SIZE], X509 *certificate)
{
	X509_NAME *subject = X509_get_subject_name(certificate);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
	ASN1_STRING *value;

	if (at < 0 || X509_NAME_get_index_by_NID(subject, NID_commonName, at) >= 0)
		return false;
	value = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
	if (ASN1_STRING_length(value) >= DEVICE_ID_SIZE)
		return false;
	memcpy(name, ASN1_STRING_get0_data(value), (size_t)ASN1_STRING_length(value));
	name[ASN1_STRING_length(value)] = '\0';
	if (strlen(name) == (size_t)ASN1_STRING_length(value) && is_device_id(name))
		return true;
	name[0] = '\0';
	return false;
}

/* Tells whether the subject's alternative names hold exactly one URN of ours, that of `name`. */
static bool uri_names(X509 *certificate, const char *name)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
	char expected[sizeof URN_PREFIX + DEVICE_ID_SIZE];
	int matches = 0, others = 0;

	snprintf(expected, sizeof expected, "%s%s", URN_PREFIX, name);
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *each = sk_GENERAL_NAME_value(names, i);
		size_t size;

		if (each->type != GEN_URI)
			continue;
		size = (size_t)ASN1_STRING_length(each->d.uniformResourceIdentifier);
		if (size == strlen(expected)
				&& memcmp(ASN1_STRING_get0_data(each->d.uniformResourceIdentifier), expected, size) == 0)
			matches++;
		else
			others++;
	}
	GENERAL_NAMES_free(names);
	return matches == 1 && others == 0;
}

static bool fingerprint(char hex[SHA256_HEX_SIZE], X509 *certificate)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int count = 0;

	if (X509_digest(certificate, EVP_sha256(), digest, &count) != 1)
		return false;
	to_hex(hex, digest, count);
	return true;
}

/* Puts n - s in the place of s in an ECDSA signature, n being the order of the signer's group. */
static bool mirror(ASN1_BIT_STRING *signature, EVP_PKEY *signer)
{
	const unsigned char *read = ASN1_STRING_get0_data(signature);
	ECDSA_SIG *pair = d2i_ECDSA_SIG(NULL, &read, ASN1_STRING_length(signature));
	BIGNUM *order = NULL, *r = NULL, *s = BN_new();
	unsigned char *written = NULL;
	bool done = false;
	int size;

	if (pair != NULL && s != NULL && (r = BN_dup(ECDSA_SIG_get0_r(pair))) != NULL
			&& EVP_PKEY_get_bn_param(signer, OSSL_PKEY_PARAM_EC_ORDER, &order) == 1
			&& BN_sub(s, order, ECDSA_SIG_get0_s(pair)) == 1 && ECDSA_SIG_set0(pair, r, s) == 1) {
		r = s = NULL; /* the pair has them now */
		size = i2d_ECDSA_SIG(pair, &written);
		done = size > 0 && ASN1_STRING_set(signature, written, size) == 1;
	}
	OPENSSL_free(written);
	BN_free(order);
	BN_free(r);
	BN_free(s);
	ECDSA_SIG_free(pair);
	return done;
}

/* Writes the fingerprint of a certificate's twin (see certificate.h); false without memory. */
static bool twin(char hex[SHA256_HEX_SIZE], X509 *certificate, X509 *issuer)
{
	EVP_PKEY *signer = X509_get0_pubkey(issuer);
	const ASN1_BIT_STRING *signature;
	X509 *other;
	bool done;

	if (!EVP_PKEY_is_a(signer, "EC"))
		return true;
	if ((other = X509_dup(certificate)) == NULL)
		return false;
	X509_get0_signature(&signature, NULL, other);
	done = mirror((ASN1_BIT_STRING *)signature, signer) && fingerprint(hex, other);
	X509_free(other);
	return done;
}

const char *identify(struct identity *identity, X509 *certificate, const struct issuers *issuers)
{
	X509 *issuer;

	memset(identity, 0, sizeof *identity);
	memset(identity->fingerprint, '0', SHA256_HEX_SIZE - 1);
	if (certificate == NULL || !fingerprint(identity->fingerprint, certificate))
		return "no-certificate";
	memcpy(identity->twin, identity->fingerprint, SHA256_HEX_SIZE);
	if ((issuer = issuer_among(issuers->services, certificate)) != NULL)
		identity->service = true;
	else if ((issuer = issuer_among(issuers->devices, certificate)) == NULL) {
		if ((issuer = issuer_among(issuers->provisioning, certificate)) == NULL)
			return "unknown-issuer";
		identity->newcomer = true;
	}
	if (!twin(identity->twin, certificate, issuer))
		return "no-certificate";
	if (!common_name(identity->name, certificate))
		return "invalid-name";
	if (!identity->service && !uri_names(certificate, identity->name))
		return "uri-mismatch";
	return NULL;
}
