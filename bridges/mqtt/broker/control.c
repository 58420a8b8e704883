#include "control.h"

#include <stdbool.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "refusals.h"
#include "sessions.h"

struct order {
	const char *verb, *kind, *value; /* `kind` and `value` are NULL for `status` */
	const char *id;
};

static bool is_object(const cJSON *item, int members)
{
	return cJSON_IsObject(item) && cJSON_GetArraySize(item) == members;
}

/* Reads {"certificate": text} or {"device": text}. */
static const char *parse_target(struct order *order, const cJSON *target)
{
	const cJSON *member = target->child;

	if (!is_object(target, 1) || !cJSON_IsString(member))
		return "a target is {\"certificate\": text} or {\"device\": text}";
	if (strcmp(member->string, "certificate") != 0 && strcmp(member->string, "device") != 0)
		return "a target is a certificate or a device";
	order->kind = member->string;
	order->value = member->valuestring;
	return NULL;
}

/* Reads an order; returns NULL, or what is wrong with it. */
static const char *parse(struct order *order, const cJSON *root)
{
	const cJSON *each, *target = NULL;

	if (!cJSON_IsObject(root))
		return "an order is a JSON object";
	cJSON_ArrayForEach(each, root) {
		if (strcmp(each->string, "id") == 0 && cJSON_IsString(each) && order->id == NULL
				&& strlen(each->valuestring) <= CONTROL_ID_MAX)
			order->id = each->valuestring;
		else if (strcmp(each->string, "id") == 0)
			return "id is one text of at most 128 bytes";
		else if (target != NULL)
			return "an order holds one of refuse, allow, status";
		else
			target = each;
	}
	if (target == NULL)
		return "an order holds one of refuse, allow, status";
	order->verb = target->string;
	if (strcmp(order->verb, "status") == 0)
		return is_object(target, 0) ? NULL : "status is {}";
	if (strcmp(order->verb, "refuse") != 0 && strcmp(order->verb, "allow") != 0)
		return "an order holds one of refuse, allow, status";
	return parse_target(order, target);
}

static const char *carry_out(const struct order *order, unsigned *closed, close_sessions close)
{
	enum refusals_result result = REFUSALS_OK;

	if (strcmp(order->verb, "refuse") == 0)
		result = refusals_add(order->kind, order->value);
	else if (strcmp(order->verb, "allow") == 0)
		result = refusals_remove(order->kind, order->value);
	if (result == REFUSALS_INVALID)
		return "certificate is 64 lower-case hexadecimal digits, device is a device id";
	/* Full or without a disk, the open session ends all the same. */
	if (strcmp(order->verb, "refuse") == 0)
		*closed = close(order->kind, order->value);
	if (result == REFUSALS_FULL)
		return "the list of refusals is full: this one does not hold";
	if (result == REFUSALS_NOT_DURABLE)
		return "the list of refusals cannot be written: a refusal holds until the broker stops";
	return NULL;
}

char *control_answer(const void *payload, size_t size, const struct counts *counts,
	close_sessions close)
{
	struct order order = {0};
	cJSON *root = NULL, *answer = cJSON_CreateObject();
	const char *end = NULL, *error = "an order is one JSON object of at most 4096 bytes";
	unsigned closed = 0;
	char *text;

	if (payload != NULL && size <= CONTROL_PAYLOAD_MAX)
		root = cJSON_ParseWithLengthOpts(payload, size, &end, 0);
	if (root != NULL && end == (const char *)payload + size)
		error = parse(&order, root);
	if (error == NULL)
		error = carry_out(&order, &closed, close);
	if (order.id != NULL)
		cJSON_AddStringToObject(answer, "id", order.id);
	cJSON_AddBoolToObject(answer, "ok", error == NULL);
	if (error != NULL)
		cJSON_AddStringToObject(answer, "error", error);
	cJSON_AddNumberToObject(answer, "closed", closed);
	cJSON_AddNumberToObject(answer, "sessions", session_count());
	cJSON_AddNumberToObject(answer, "refusals", (double)refusals_count());
	cJSON_AddNumberToObject(answer, "refused_connections", (double)counts->refused_connections);
	cJSON_AddNumberToObject(answer, "refused_messages", (double)counts->refused_messages);
	text = answer == NULL ? NULL : cJSON_PrintUnformatted(answer);
	cJSON_Delete(answer);
	cJSON_Delete(root);
	return text;
}
