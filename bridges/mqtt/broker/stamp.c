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
#define NO_ADDRESS "-" /* of what the broker says for itself */
#define STAMP_SIZE_MAX 512u

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
	static const char digits[] = "0123456789abcdef";

	for (size_t i = 0; i < count; i++) {
		hex[2 * i] = digits[bytes[i] >> 4];
		hex[2 * i + 1] = digits[bytes[i] & 15];
	}
	hex[2 * count] = '\0';
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

static bool authenticate(char mac[SHA256_HEX_SIZE], const char *head, const char *topic,
	const void *payload, size_t payload_size)
{
	char size_text[32];
	unsigned char bytes[32];
	size_t size = 0;
	EVP_MAC_CTX *context = EVP_MAC_CTX_dup(keyed);
	bool good = context != NULL;

	snprintf(size_text, sizeof size_text, " %zu\n", payload_size);
	good = good && EVP_MAC_update(context, (const unsigned char *)head, strlen(head)) == 1
		&& EVP_MAC_update(context, (const unsigned char *)size_text, strlen(size_text)) == 1
		&& EVP_MAC_update(context, (const unsigned char *)topic, strlen(topic)) == 1
		&& EVP_MAC_update(context, (const unsigned char *)"\n", 1) == 1
		&& (payload_size == 0 || EVP_MAC_update(context, payload, payload_size) == 1)
		&& EVP_MAC_final(context, bytes, &size, sizeof bytes) == 1 && size == sizeof bytes;
	EVP_MAC_CTX_free(context);
	if (good)
		to_hex(mac, bytes, sizeof bytes);
	return good;
}

int stamp_add(mosquitto_property **properties, const struct stamp *stamp, const void *payload,
	size_t payload_size)
{
	char text[STAMP_SIZE_MAX], mac[SHA256_HEX_SIZE];
	const char *address = stamp->address[0] == '\0' ? NO_ADDRESS : stamp->address;
	int size = snprintf(text, sizeof text, "%s %s %s %s %" PRIu64, stamp->certificate,
		stamp->client, stamp->session, address, stamp->counter);

	if (size < 0 || (size_t)size + 1 + sizeof mac > sizeof text
			|| !authenticate(mac, text, stamp->topic, payload, payload_size))
		return MOSQ_ERR_UNKNOWN;
	text[size] = ' ';
	memcpy(text + size + 1, mac, sizeof mac);
	return mosquitto_property_add_string_pair(properties, MQTT_PROP_USER_PROPERTY, PREFIX "stamp",
		text);
}
