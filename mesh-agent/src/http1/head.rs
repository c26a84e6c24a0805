//! Strict parser of message heads: the lines of a request or response, every byte checked before anything is forwarded.
//!
//! `conn` finds the end of a head with [`find_end`], `message` gives the lines their meaning, `write` sends them on as
//! they were spelled. What RFC 9112 lets a recipient tolerate (bare LF, folding, spaces before a colon) is refused: a
//! server behind us may read it differently, which is what request smuggling lives on.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::pool;
use crate::proxy::error::Hostile;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// It breaks the protocol.
    Hostile(Hostile),
    /// More bytes or fields than allowed.
    TooLarge,
    /// A request target longer than allowed.
    UriTooLong,
}

impl From<Hostile> for HeadError {
    fn from(hostile: Hostile) -> Self {
        Self::Hostile(hostile)
    }
}

/// Field names that the agent itself acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Forwarded as it is.
    Other,
    /// `Connection`
    Connection,
    /// `Content-Length`
    ContentLength,
    /// `Expect`
    Expect,
    /// `Host`
    Host,
    /// `HTTP2-Settings`, which belongs to an upgrade that isn't carried.
    Http2Settings,
    /// `Keep-Alive`
    KeepAlive,
    /// `mesh-agent-http1`, which agents say to each other and nobody else is believed.
    Mark,
    /// `Proxy-Connection`
    ProxyConnection,
    /// `TE`
    Te,
    /// `Transfer-Encoding`
    TransferEncoding,
    /// `Upgrade`
    Upgrade,
}

/// One header line. Offsets into the head.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Start of the line and of the name.
    pub start: u32,
    /// End of the name.
    pub name_end: u32,
    /// Start of the value, white space around it left out.
    pub value: u32,
    /// End of the value.
    pub value_end: u32,
    /// End of the line, its CRLF included.
    pub end: u32,
    /// What the name means to us.
    pub known: Known,
    /// Ends here: not forwarded.
    pub hop: bool,
}

/// The bytes of a head and where its lines are.
#[derive(Debug, Default)]
pub struct RawHead {
    /// From the first line to the empty one.
    pub bytes: Bytes,
    /// End of the first line, its CRLF included.
    pub line_end: usize,
    /// Header lines in their order.
    pub fields: Vec<Field>,
}

impl Drop for RawHead {
    fn drop(&mut self) {
        pool::give_fields(std::mem::take(&mut self.fields));
    }
}

impl RawHead {
    /// Splits a complete head, up to and with its empty line, into checked header lines. The first line is the
    /// caller's to check.
    pub fn parse(bytes: Bytes, max_fields: usize) -> Result<Self, HeadError> {
        let mut fields = pool::take_fields();
        let line_end = memchr::memchr(b'\n', &bytes).map_or(bytes.len(), |at| at + 1);
        parse_fields(&bytes, line_end, max_fields, &mut fields)?;
        Ok(Self { bytes, line_end, fields })
    }

    /// The first line without its CRLF.
    pub fn first_line(&self) -> &[u8] {
        &self.bytes[..self.line_end.saturating_sub(2)]
    }

    /// A field's name as it was spelled.
    pub fn name(&self, field: &Field) -> &[u8] {
        &self.bytes[field.start as usize..field.name_end as usize]
    }

    /// A copy of all fields, for who wants to show them.
    pub fn header_map(&self) -> HeaderMap {
        let field = |field: &Field| {
            let name = HeaderName::from_bytes(self.name(field)).ok()?;
            Some((name, HeaderValue::from_bytes(self.value(field)).ok()?))
        };
        let mut all = HeaderMap::new();
        for (name, value) in self.fields.iter().filter_map(field) {
            all.append(name, value);
        }
        all
    }

    /// A field's value.
    pub fn value(&self, field: &Field) -> &[u8] {
        &self.bytes[field.value as usize..field.value_end as usize]
    }
}

/// Looks for the empty line that ends a head. `scanned` says how far earlier calls looked, so that a head that comes
/// byte by byte isn't searched again and again. Returns the head's length with the empty line.
pub fn find_end(buf: &[u8], scanned: &mut usize) -> Result<Option<usize>, HeadError> {
    while let Some(found) = memchr::memchr(b'\n', &buf[*scanned..]) {
        let at = *scanned + found;
        if at == 0 || buf[at - 1] != b'\r' {
            return Err(Hostile::BareLineFeed.into());
        }
        *scanned = at + 1;
        // The line feed before was found to have its CR.
        if at >= 3 && buf[at - 2] == b'\n' {
            return Ok(Some(at + 1));
        }
    }
    *scanned = buf.len();
    Ok(None)
}

/// Parses header (or trailer) lines from `at` to the empty line. `buf` is complete, each of its LFs has a CR before it.
pub fn parse_fields(buf: &[u8], mut at: usize, max: usize, fields: &mut Vec<Field>) -> Result<(), HeadError> {
    let last = buf.len().saturating_sub(2);
    while at < last {
        let end = memchr::memchr(b'\n', &buf[at..]).map_or(buf.len(), |found| at + found + 1);
        if fields.len() == max {
            return Err(HeadError::TooLarge);
        }
        fields.push(parse_field(buf, at, end)?);
        at = end;
    }
    Ok(())
}

fn parse_field(buf: &[u8], start: usize, end: usize) -> Result<Field, HeadError> {
    let line = &buf[start..end - 2];
    let name_len = line.iter().position(|b| !is_token(*b)).unwrap_or(line.len());
    if name_len == 0 || line.get(name_len) != Some(&b':') {
        return Err(bad_name(line, name_len).into());
    }
    let raw = &line[name_len + 1..];
    if let Some(bad) = raw.iter().find(|b| !is_value(**b)) {
        return Err(control_byte(*bad).unwrap_or(Hostile::BadHeaderValue).into());
    }
    let value = raw.trim_ascii_start();
    let value_start = end - 2 - value.len();
    let value_end = value_start + value.trim_ascii_end().len();
    Ok(Field {
        start: start as u32,
        name_end: (start + name_len) as u32,
        value: value_start as u32,
        value_end: value_end as u32,
        end: end as u32,
        known: known(&line[..name_len]),
        hop: false,
    })
}

/// Names what is wrong with the line's name, for the metric.
fn bad_name(line: &[u8], name_len: usize) -> Hostile {
    match line.get(name_len) {
        Some(b' ' | b'\t') if name_len == 0 => Hostile::ObsoleteFold,
        Some(b' ' | b'\t') if line[name_len..].trim_ascii_start().first() == Some(&b':') => {
            Hostile::SpaceBeforeColon
        }
        Some(byte) => control_byte(*byte).unwrap_or(Hostile::BadHeaderName),
        None => Hostile::BadHeaderName,
    }
}

/// The two bytes that have a name of their own.
pub fn control_byte(byte: u8) -> Option<Hostile> {
    match byte {
        0 => Some(Hostile::NulByte),
        b'\r' => Some(Hostile::BareCarriageReturn),
        _ => None,
    }
}

/// What a name means to us.
pub fn known(name: &[u8]) -> Known {
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    match name.len() {
        2 if is("te") => Known::Te,
        4 if is("host") => Known::Host,
        6 if is("expect") => Known::Expect,
        7 if is("upgrade") => Known::Upgrade,
        10 if is("connection") => Known::Connection,
        10 if is("keep-alive") => Known::KeepAlive,
        14 if is("content-length") => Known::ContentLength,
        14 if is("http2-settings") => Known::Http2Settings,
        16 if is("mesh-agent-http1") => Known::Mark,
        16 if is("proxy-connection") => Known::ProxyConnection,
        17 if is("transfer-encoding") => Known::TransferEncoding,
        _ => Known::Other,
    }
}

const TOKEN: u8 = 1;
const VALUE: u8 = 2;

/// RFC 9110, 5.6.2 and 5.5: what a token and a field value may hold.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            )
        {
            classes[byte] |= TOKEN;
        }
        if b == b'\t' || (b >= 0x20 && b != 0x7f) {
            classes[byte] |= VALUE;
        }
        byte += 1;
    }
    classes
};

/// True for a byte of a method or field name.
pub fn is_token(byte: u8) -> bool {
    CLASSES[byte as usize] & TOKEN != 0
}

/// True for a byte of a field value.
pub fn is_value(byte: u8) -> bool {
    CLASSES[byte as usize] & VALUE != 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(fields: &[u8], expected: Result<&[(&str, &str)], HeadError>) {
        let bytes = [b"GET / HTTP/1.1\r\n", fields, b"\r\n"].concat();
        let mut scanned = 0;
        let parsed = match find_end(&bytes, &mut scanned) {
            Err(error) => Err(error),
            Ok(end) => RawHead::parse(Bytes::copy_from_slice(&bytes[..end.unwrap()]), 4),
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let got = parsed.map(|head| {
            head.fields.iter().map(|f| (text(head.name(f)), text(head.value(f)))).collect::<Vec<_>>()
        });
        let expected = expected
            .map(|list| list.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>());
        assert_eq!(got, expected, "{}", text(fields));
    }

    fn refused(fields: &[u8], expected: Hostile) {
        check(fields, Err(HeadError::Hostile(expected)));
    }

    #[test]
    fn fields_are_split_and_white_space_around_values_goes() {
        check(b"", Ok(&[]));
        check(b"Host: a\r\nX-Y:b\r\n", Ok(&[("Host", "a"), ("X-Y", "b")]));
        check(b"a: \t b c \t\r\nempty:\r\nblank:  \r\n", Ok(&[("a", "b c"), ("empty", ""), ("blank", "")]));
        check("u: caf\u{e9}\r\n".as_bytes(), Ok(&[("u", "caf\u{e9}")]));
    }

    #[test]
    fn what_others_may_read_differently_is_refused() {
        refused(b"a: b\nc: d\r\n", Hostile::BareLineFeed);
        refused(b"a: b\rc\r\n", Hostile::BareCarriageReturn);
        refused(b"a: b\r\r\n", Hostile::BareCarriageReturn);
        refused(b"a\r: b\r\n", Hostile::BareCarriageReturn);
        refused(b"a: b\r\n c\r\n", Hostile::ObsoleteFold);
        refused(b"a: b\r\n\tc: d\r\n", Hostile::ObsoleteFold);
        refused(b"a : b\r\n", Hostile::SpaceBeforeColon);
        refused(b"Transfer-Encoding\t: chunked\r\n", Hostile::SpaceBeforeColon);
        refused(b"a: b\0c\r\n", Hostile::NulByte);
        refused(b"a\0: b\r\n", Hostile::NulByte);
        refused(b"a: \x0bchunked\r\n", Hostile::BadHeaderValue);
        refused(b"a: \x7f\r\n", Hostile::BadHeaderValue);
        refused(b"no colon\r\n", Hostile::BadHeaderName);
        refused(b"nocolon\r\n", Hostile::BadHeaderName);
        refused(b": empty\r\n", Hostile::BadHeaderName);
        refused("caf\u{e9}: b\r\n".as_bytes(), Hostile::BadHeaderName);
        refused(b"a(b): c\r\n", Hostile::BadHeaderName);
    }

    #[test]
    fn too_many_fields_are_refused() {
        check(b"a: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\ne: 5\r\n", Err(HeadError::TooLarge));
    }

    #[test]
    fn the_end_is_found_however_the_bytes_come() {
        let text = b"GET / HTTP/1.1\r\nhost: a\r\n\r\nrest\n";
        let mut scanned = 0;
        for len in 0..27 {
            assert_eq!(find_end(&text[..len], &mut scanned), Ok(None), "{len}");
        }
        assert_eq!(find_end(text, &mut scanned), Ok(Some(27)));
    }
}
