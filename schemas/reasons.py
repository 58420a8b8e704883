"""Why: the closed list of reasons. A refusal, failure or alert carries exactly one of these."""

from enum import StrEnum


class Reason(StrEnum):
    """One sentence each; the glossary is drawn from these docstrings."""

    NONE = "none"
    ORDERED = "ordered"
    NEAR_EXPIRY = "near-expiry"
    EXPIRED = "expired"
    REGISTERED = "registered"
    ALREADY_REGISTERED = "already-registered"
    UNKNOWN_DEVICE = "unknown-device"
    UNKNOWN_TYPE = "unknown-type"
    UNDECODABLE = "undecodable"
    OVERSIZE = "oversize"
    MALFORMED = "malformed"
    FOREIGN_TOPIC = "foreign-topic"
    UNSIGNED_STAMP = "unsigned-stamp"
    REPEATED = "repeated"
    CLOCK_OFF = "clock-off"
    STEP_RAISED = "step-raised"
    FINGERPRINT_UNKNOWN = "fingerprint-unknown"
    CERTIFICATE_RETIRED = "certificate-retired"
    UNDER_RETIRED = "under-retired"
    DEVICE_BLOCKED = "device-blocked"
    WRONG_NONCE = "wrong-nonce"
    WRONG_SUBJECT = "wrong-subject"
    WRONG_SIGNATURE = "wrong-signature"
    WEAK_KEY = "weak-key"
    KEY_REUSED = "key-reused"
    NO_ROTATION = "no-rotation"
    ISSUER_REFUSED = "issuer-refused"
    ISSUER_AWAY = "issuer-away"
    DEVICE_AWAY = "device-away"
    DEVICE_REFUSED = "device-refused"
    DEVICE_FAILED = "device-failed"
    NOT_PROVEN = "not-proven"
    ATTEMPTS_SPENT = "attempts-spent"
    PROVEN_IN_USE = "proven-in-use"
    FLAPPING = "flapping"
    SILENT = "silent"
    ERROR_RATE = "error-rate"
    MESSAGE_RATE = "message-rate"
    MESSAGE_SIZE = "message-size"
    SEQUENCE_GAP = "sequence-gap"
    TWO_ADDRESSES = "two-addresses"
    DOOR_AWAY = "door-away"
    RECOVERED = "recovered"


SENTENCES: dict[Reason, str] = {
    Reason.NONE: "Nothing was refused.",
    Reason.ORDERED: "An operator asked for it.",
    Reason.NEAR_EXPIRY: "The certificate reached daysBeforeExpiry or two thirds of its lifetime.",
    Reason.EXPIRED: "The instant lies after the end of validity.",
    Reason.REGISTERED: "An operator registered the device with this certificate.",
    Reason.ALREADY_REGISTERED: "The device id is taken.",
    Reason.UNKNOWN_DEVICE: "No device of this id is registered.",
    Reason.UNKNOWN_TYPE: "The record or event type is not part of the language.",
    Reason.UNDECODABLE: "The bytes are not a record of the language.",
    Reason.OVERSIZE: "The payload is longer than its limit.",
    Reason.MALFORMED: "The payload is not what its content type says.",
    Reason.FOREIGN_TOPIC: "The device wrote to a topic that names another device.",
    Reason.UNSIGNED_STAMP: "The identity stamp is absent or wrongly signed (a will, a forgery).",
    Reason.REPEATED: "The same event came before.",
    Reason.CLOCK_OFF: "The clock of a tick or a door lies far off its record's broker time.",
    Reason.STEP_RAISED: "A step raised an exception; the record is set aside.",
    Reason.FINGERPRINT_UNKNOWN: "No certificate of this fingerprint was issued to the device.",
    Reason.CERTIFICATE_RETIRED: "The certificate was replaced and its grace is over.",
    Reason.UNDER_RETIRED: "Said by a session of a retired certificate within its grace.",
    Reason.DEVICE_BLOCKED: "The identity is blocked.",
    Reason.WRONG_NONCE: "The nonce is not the one of the command.",
    Reason.WRONG_SUBJECT: "The request names another device.",
    Reason.WRONG_SIGNATURE: "A signature of the request does not verify.",
    Reason.WEAK_KEY: "The key is not P-256, P-384, Ed25519 or RSA of 2048 bits and more.",
    Reason.KEY_REUSED: "The request carries a key that the device already used.",
    Reason.NO_ROTATION: "No rotation of the device waits for this.",
    Reason.ISSUER_REFUSED: "The issuer refused to sign.",
    Reason.ISSUER_AWAY: "The issuer did not answer in time.",
    Reason.DEVICE_AWAY: "The device did not answer the command in time.",
    Reason.DEVICE_REFUSED: "The device refused the command.",
    Reason.DEVICE_FAILED: "The device accepted the command and failed.",
    Reason.NOT_PROVEN: "The device did not come back with the new certificate in time.",
    Reason.ATTEMPTS_SPENT: "Every attempt failed; a person must look.",
    Reason.PROVEN_IN_USE: "The first event came under the new certificate.",
    Reason.FLAPPING: "Connections open and close too often.",
    Reason.SILENT: "No event within three health check intervals.",
    Reason.ERROR_RATE: "Too many reports are errors.",
    Reason.MESSAGE_RATE: "Messages come far faster than in the device's own past.",
    Reason.MESSAGE_SIZE: "Messages are far larger than in the device's own past.",
    Reason.SEQUENCE_GAP: "Numbers of the device's own sequence are missing.",
    Reason.TWO_ADDRESSES: "One certificate is in use from two addresses at once.",
    Reason.DOOR_AWAY: "Nobody serves this share of a door; its devices' silence does not count.",
    Reason.RECOVERED: "The alert's condition has ended.",
}
