#include "certificate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static bool issued_by_one_of(X509 *certificate, STACK_OF(X509) *issuers)
{
	for (int i = 0; i < sk_X509_num(issuers); i++) {
		X509 *issuer = sk_X509_value(issuers, i);

		if (X509_check_issued(issuer, certificate) == X509_V_OK
				&& X509_verify(certificate, X509_get0_pubkey(issuer)) == 1)
			return true;
	}
	return false;
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

const char *identify(struct identity *identity, X509 *certificate, const struct issuers *issuers)
{
	memset(identity, 0, sizeof *identity);
	memset(identity->fingerprint, '0', SHA256_HEX_SIZE - 1);
	if (certificate == NULL || !fingerprint(identity->fingerprint, certificate))
		return "no-certificate";
	identity->service = issued_by_one_of(certificate, issuers->services);
	if (!identity->service && !issued_by_one_of(certificate, issuers->devices)) {
		identity->newcomer = issued_by_one_of(certificate, issuers->provisioning);
		if (!identity->newcomer)
			return "unknown-issuer";
	}
	if (!common_name(identity->name, certificate))
		return "invalid-name";
	if (!identity->service && !uri_names(certificate, identity->name))
		return "uri-mismatch";
	return NULL;
}
