#include "stamp.h"

#include "broker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <mqtt_protocol.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#define PREFIX "fleetcert-"

/* A context that holds the key; every stamp copies it. */
static EVP_MAC_CTX *keyed;

static EVP_MAC_CTX *hmac_sha256(const unsigned char *key, size_t size)
{
	char digest[] = "SHA256";
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string("digest", digest, 0),
		OSSL_PARAM_construct_end(),
	};
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	EVP_MAC_CTX *context = mac == NULL ? NULL : EVP_MAC_CTX_new(mac);

	EVP_MAC_free(mac);
	if (context != NULL && EVP_MAC_init(context, key, size, params) != 1) {
		EVP_MAC_CTX_free(context);
		return NULL;
	}
	return context;
}

bool stamp_open(const char *secret_path, char *error, size_t error_size)
{
	unsigned char secret[SECRET_SIZE_MAX + 1];
	size_t size = 0;
	FILE *stream = fopen(secret_path, "rb");

	if (stream == NULL) {
		snprintf(error, error_size, "cannot read the secret file %s", secret_path);
		return false;
	}
	setvbuf(stream, NULL, _IONBF, 0); /* no second copy of the secret in a buffer */
	size = fread(secret, 1, sizeof secret, stream);
	fclose(stream);
	if (size < SECRET_SIZE_MIN || size > SECRET_SIZE_MAX)
		snprintf(error, error_size, "the secret in %s has %zu bytes: between %d and %d are needed",
			secret_path, size, SECRET_SIZE_MIN, SECRET_SIZE_MAX);
	else if ((keyed = hmac_sha256(secret, size)) == NULL)
		snprintf(error, error_size, "OpenSSL gives no HMAC-SHA256");
	OPENSSL_cleanse(secret, sizeof secret);
	return keyed != NULL;
}

void stamp_close(void)
{
	EVP_MAC_CTX_free(keyed);
	keyed = NULL;
}

uint32_t bucket_of(const char *id, uint32_t buckets)
{
	uint32_t hash = 2166136261u;

	for (; *id != '\0'; id++)
		hash = (hash ^ (unsigned char)*id) * 16777619u;
	return hash % buckets;
}

void to_hex(char *hex, const unsigned char *bytes, size_t count)
{
	for (size_t i = 0; i < count; i++)
		snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
}

static bool is_user_property(const mosquitto_property *property)
{
	return mosquitto_property_identifier(property) == MQTT_PROP_USER_PROPERTY;
}

/* Copies one property to the end of `target`, unless it is a user property that begins with
 * the prefix. The broker hands no others than these six kinds to a message hook. */
static int copy_kept(mosquitto_property **target, const mosquitto_property *from)
{
	int kind = mosquitto_property_identifier(from), result = MOSQ_ERR_NOMEM;
	char *name = NULL, *text = NULL;
	void *bytes = NULL;
	uint16_t size = 0;
	uint8_t flag = 0;

	if (kind == MQTT_PROP_USER_PROPERTY) {
		if (mosquitto_property_read_string_pair(from, kind, &name, &text, false) == NULL)
			return result;
		result = MOSQ_ERR_SUCCESS;
		if (strncasecmp(name, PREFIX, sizeof PREFIX - 1) != 0)
			result = mosquitto_property_add_string_pair(target, kind, name, text);
	} else if (kind == MQTT_PROP_CONTENT_TYPE || kind == MQTT_PROP_RESPONSE_TOPIC) {
		if (mosquitto_property_read_string(from, kind, &text, false) != NULL)
			result = mosquitto_property_add_string(target, kind, text);
	} else if (kind == MQTT_PROP_CORRELATION_DATA) {
		if (mosquitto_property_read_binary(from, kind, &bytes, &size, false) != NULL)
			result = mosquitto_property_add_binary(target, kind, bytes, size);
	} else if (kind == MQTT_PROP_PAYLOAD_FORMAT_INDICATOR) {
		if (mosquitto_property_read_byte(from, kind, &flag, false) != NULL)
			result = mosquitto_property_add_byte(target, kind, flag);
	} else {
		result = MOSQ_ERR_ACL_DENIED;
	}
	free(name);
	free(text);
	free(bytes);
	return result;
}

int stamp_remove(mosquitto_property **properties)
{
	mosquitto_property *kept = NULL;
	const mosquitto_property *each;
	unsigned users = 0;
	int result = MOSQ_ERR_SUCCESS;

	for (each = *properties; each != NULL; each = mosquitto_property_next(each))
		users += is_user_property(each);
	if (users == 0)
		return MOSQ_ERR_SUCCESS;
	if (users > USER_PROPERTIES_MAX)
		return MOSQ_ERR_ACL_DENIED;
	for (each = *properties; each != NULL && result == MOSQ_ERR_SUCCESS;
			each = mosquitto_property_next(each))
		result = copy_kept(&kept, each);
	if (result != MOSQ_ERR_SUCCESS) {
		mosquitto_property_free_all(&kept);
		return result;
	}
	if (!broker_frees_what_is_replaced())
		mosquitto_property_free_all(properties);
	*properties = kept;
	return MOSQ_ERR_SUCCESS;
}

static bool payload_digest(char hex[SHA256_HEX_SIZE], const void *payload, size_t size)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	unsigned int count = 0;

	if (EVP_Digest(size == 0 ? "" : payload, size, digest, &count, EVP_sha256(), NULL) != 1)
		return false;
	to_hex(hex, digest, count);
	return true;
}

static bool authenticate(char mac[SHA256_HEX_SIZE], const char *const *values, size_t count)
{
	unsigned char bytes[32];
	size_t size = 0;
	EVP_MAC_CTX *context = EVP_MAC_CTX_dup(keyed);
	bool good = context != NULL;

	for (size_t i = 0; good && i < count; i++)
		good = (i == 0 || EVP_MAC_update(context, (const unsigned char *)"\n", 1) == 1)
			&& EVP_MAC_update(context, (const unsigned char *)values[i], strlen(values[i])) == 1;
	good = good && EVP_MAC_final(context, bytes, &size, sizeof bytes) == 1 && size == sizeof bytes;
	EVP_MAC_CTX_free(context);
	if (good)
		to_hex(mac, bytes, sizeof bytes);
	return good;
}

int stamp_add(mosquitto_property **properties, const struct stamp *stamp, const void *payload,
	size_t payload_size)
{
	static const char *const names[] = {
		PREFIX "certificate", PREFIX "client", PREFIX "session", PREFIX "counter",
		PREFIX "address", PREFIX "topic", PREFIX "mac",
	};
	char counter[24], digest[SHA256_HEX_SIZE], mac[SHA256_HEX_SIZE];
	const char *values[] = {
		stamp->certificate, stamp->client, stamp->session, counter, stamp->address, stamp->topic,
		digest,
	};
	int result = MOSQ_ERR_SUCCESS;

	snprintf(counter, sizeof counter, "%" PRIu64, stamp->counter);
	if (!payload_digest(digest, payload, payload_size) || !authenticate(mac, values, 7))
		return MOSQ_ERR_UNKNOWN;
	values[6] = mac;
	for (size_t i = 0; i < 7 && result == MOSQ_ERR_SUCCESS; i++)
		result = mosquitto_property_add_string_pair(properties, MQTT_PROP_USER_PROPERTY, names[i],
			values[i]);
	return result;
}
