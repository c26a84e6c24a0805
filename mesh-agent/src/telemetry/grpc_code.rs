//! The names of gRPC's status codes (google/rpc/code.proto), in both spellings.

const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// As Envoy spells them, `InvalidArgument`.
pub fn camel(code: u16) -> &'static str {
    NAMES.get(usize::from(code)).map_or("InvalidCode", |names| names.0)
}

/// As the specification does, `INVALID_ARGUMENT`.
pub fn snake(code: u16) -> &'static str {
    NAMES.get(usize::from(code)).map_or("INVALID_CODE", |names| names.1)
}
