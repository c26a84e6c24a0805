//! What a connection speaks, where nothing is declared or where HTTP may be of either version: one bounded look at the
//! client's first bytes.
//!
//! Pure: bytes in, verdict out. `outbound` and `inbound` read the bytes and pass them on whatever the verdict is.

use crate::identity::ALPN_MESH;

/// First bytes of HTTP/2 with prior knowledge (RFC 9113, 3.4).
pub const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// So many bytes of it are its first line.
const H2_FIRST_LINE: usize = 16;
/// First byte of a TLS connection: a record with a message of the handshake (RFC 8446, 5.1).
pub const TLS_HANDSHAKE: u8 = 0x16;
/// Bytes of a frame's head (RFC 9113, 4.1).
pub const FRAME_HEAD: usize = 9;
const SETTINGS: u8 = 4;
/// Bytes of one setting (RFC 9113, 6.5.1).
const SETTING: usize = 6;
/// More settings than are defined, with room for those that mean nothing.
const MAX_SETTINGS: usize = 64;
/// More than this is never read for a verdict.
pub const MAX_PEEK: usize = 16 * 1024;

/// Methods that mark the beginning of HTTP/1 while the request line is incomplete (RFC 9110, RFC 5789, RFC 4918). A
/// complete line with any method is recognised by its version.
const METHODS: &[&[u8]] = &[
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PROPFIND ",
    b"PROPPATCH ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
    b"LOCK ",
    b"UNLOCK ",
    b"REPORT ",
    b"SEARCH ",
];

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A TLS ClientHello.
    Tls(Hello),
    /// None of these.
    Opaque,
    /// Could still become one of these.
    Unclear,
}

/// What a ClientHello says in clear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The server name that is asked for.
    pub server_name: Option<String>,
    /// ALPN offers what agents speak to each other. An application that makes it up is an agent only if it can prove it.
    pub is_agents: bool,
}

/// Looks at what the client sent so far.
pub fn classify(bytes: &[u8]) -> Verdict {
    if bytes.is_empty() {
        return Verdict::Unclear;
    }
    if bytes.starts_with(H2_PREFACE) {
        return Verdict::Http2;
    }
    if H2_PREFACE.starts_with(bytes) {
        return Verdict::Unclear;
    }
    if bytes[0] == TLS_HANDSHAKE {
        return classify_tls(bytes);
    }
    classify_http1(bytes)
}

/// HTTP of either version is declared: only the preface tells them apart. None while that isn't certain.
///
/// Its first line settles it: no other request has that method and version (RFC 9113, 11.6), and whether the rest is
/// right is for `crate::http2` to judge and to count.
pub fn is_http2(bytes: &[u8]) -> Option<bool> {
    if bytes.starts_with(&H2_PREFACE[..H2_FIRST_LINE]) {
        return Some(true);
    }
    if H2_PREFACE.starts_with(bytes) { None } else { Some(false) }
}

/// True for what an HTTP/2 server says first: the head of a SETTINGS frame that isn't an acknowledgement.
pub fn is_settings(bytes: &[u8]) -> bool {
    let [0, high, low, SETTINGS, 0, 0, 0, 0, 0, ..] = *bytes else { return false };
    let length = usize::from(u16::from_be_bytes([high, low]));
    length % SETTING == 0 && length <= MAX_SETTINGS * SETTING
}

fn classify_http1(bytes: &[u8]) -> Verdict {
    match memchr::memchr(b'\n', bytes) {
        Some(end) => {
            let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
            if is_request_line(line) { Verdict::Http1 } else { Verdict::Opaque }
        }
        None if bytes.len() >= MAX_PEEK => Verdict::Opaque,
        None if METHODS.iter().any(|m| bytes.starts_with(m) || m.starts_with(bytes)) => Verdict::Unclear,
        None => Verdict::Opaque,
    }
}

fn is_request_line(line: &[u8]) -> bool {
    let Some(version) = line.len().checked_sub(9).and_then(|at| line.get(at..)) else { return false };
    let Some(method_end) = memchr::memchr(b' ', line) else { return false };
    version.starts_with(b" HTTP/1.")
        && method_end > 0
        && method_end < line.len() - 9
        && line[..method_end].iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

fn classify_tls(bytes: &[u8]) -> Verdict {
    match bytes {
        [0x16] => Verdict::Unclear,
        [0x16, major, ..] if *major != 3 => Verdict::Opaque,
        _ => client_hello(bytes),
    }
}

/// rustls reads the ClientHello, however many records it spans; nothing is decrypted or answered.
fn client_hello(bytes: &[u8]) -> Verdict {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Verdict::Opaque;
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let is_agents =
                    hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ALPN_MESH));
                return Verdict::Tls(Hello {
                    server_name: hello.server_name().map(str::to_owned),
                    is_agents,
                });
            }
            Ok(None) => {}
            // Not a ClientHello that rustls would take, yet TLS by its record header: passed through without a name.
            Err(_) => return Verdict::Tls(Hello::default()),
        }
    }
    if bytes.len() >= MAX_PEEK { Verdict::Tls(Hello::default()) } else { Verdict::Unclear }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Verdict) {
        assert_eq!(classify(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn first_bytes_tell_the_protocol() {
        check(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Verdict::Http1);
        check(b"GET / HTTP/1.0\r\n", Verdict::Http1);
        check(b"BREW /pot HTTP/1.1\r\n", Verdict::Http1);
        check(b"GET", Verdict::Unclear);
        check(b"GET /a-long-pa", Verdict::Unclear);
        check(b"PRI * HTTP/2.0\r\n\r\nSM", Verdict::Unclear);
        check(H2_PREFACE, Verdict::Http2);
        check(b"PRI * HTTP/2.0\r\n\r\nXX", Verdict::Opaque);
        check(b"get foo\r\n", Verdict::Opaque);
        check(b"*1\r\n$4\r\nPING\r\n", Verdict::Opaque);
        check(b"SSH-2.0-OpenSSH\r\n", Verdict::Opaque);
        check(b"EHLO a\r\n", Verdict::Opaque);
        check(&[0, 0, 0, 8], Verdict::Opaque);
        check(b"HTTP/1.\n", Verdict::Opaque);
        check(&[0x16], Verdict::Unclear);
        check(&[0x16, 9, 1], Verdict::Opaque);
    }

    #[test]
    fn settings_are_told_from_what_other_servers_say_first() {
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        assert!(is_settings(&settings) && is_settings(&[0, 0, 0, 4, 0, 0, 0, 0, 0]));
        let mysql = [0x4a, 0, 0, 0, 10, b'8', b'.', b'0', b'.'];
        let acknowledgement = [0, 0, 0, 4, 1, 0, 0, 0, 0];
        for other in [&mysql, &acknowledgement, &[0, 0, 7, 4, 0, 0, 0, 0, 0], b"SSH-2.0-x", &settings[..8]]
            as [&[u8]; 5]
        {
            assert!(!is_settings(other), "{other:?}");
        }
    }

    #[test]
    fn the_first_line_of_the_preface_tells_http2_where_http_is_declared() {
        assert_eq!(is_http2(b"PRI * HTTP/2.0\r"), None);
        assert_eq!(is_http2(b"PRI * HTTP/2.0\r\nX"), Some(true));
        assert_eq!(is_http2(b"PRI * HTTP/1.1\r\n"), Some(false));
        assert_eq!(is_http2(b"PUT / HTTP/1.1\r\n"), Some(false));
    }

    #[test]
    fn an_endless_request_line_is_opaque() {
        let mut line = b"GET /".to_vec();
        line.resize(MAX_PEEK, b'a');
        check(&line, Verdict::Opaque);
    }

    proptest::proptest! {
        /// Whatever was decided on a prefix is decided on the whole.
        #[test]
        fn a_verdict_never_changes_with_more_bytes(bytes in proptest::collection::vec(0_u8.., 0..200), cut in 0_usize..200) {
            let cut = cut.min(bytes.len());
            let early = classify(&bytes[..cut]);
            if early != Verdict::Unclear {
                proptest::prop_assert_eq!(early, classify(&bytes));
            }
        }
    }
}
