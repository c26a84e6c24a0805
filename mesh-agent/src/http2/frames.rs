//! Follows the frame headers of one direction of an HTTP/2 byte stream (RFC 9113, 4.1), however it is cut into reads.
//!
//! Used by `guard` to know what passes between the socket and the h2 crate. Never looks into a payload beyond the code
//! of RST_STREAM, never keeps one, never changes a byte.

/// Bytes of a frame header.
const HEAD: usize = 9;
/// With the code of RST_STREAM.
const RESET: usize = 13;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// A frame as its header shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// DATA with content, or the end of a stream.
    Data,
    /// DATA with neither.
    EmptyData,
    /// HEADERS or PUSH_PROMISE; `done` with END_HEADERS, `last` with END_STREAM.
    Headers { done: bool, last: bool },
    /// CONTINUATION; `done` with END_HEADERS.
    Continuation { done: bool },
    /// RST_STREAM with its code.
    Reset(u32),
    /// SETTINGS.
    Settings,
    /// Acknowledgement of SETTINGS.
    SettingsAck,
    /// PING.
    Ping,
    /// Acknowledgement of PING.
    Pong,
    /// Everything else: PRIORITY, WINDOW_UPDATE, GOAWAY, unknown types.
    Other,
}

/// Where in the stream of frames a direction is.
#[derive(Debug)]
pub(super) struct Frames {
    head: [u8; RESET],
    have: usize,
    want: usize,
    skip: usize,
}

impl Frames {
    /// Starts with `skip` bytes that are no frames: the client's preface.
    pub(super) fn after(skip: usize) -> Self {
        Self { head: [0; RESET], have: 0, want: HEAD, skip }
    }

    /// True while the bytes seen end within a frame.
    pub(super) fn is_inside(&self) -> bool {
        self.have > 0 || self.skip > 0
    }

    /// Takes the next bytes and reports each frame whose header is complete with them, and its stream.
    pub(super) fn advance(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame, u32)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (self.want - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == self.want {
                self.head_complete(&mut seen);
            }
        }
    }

    fn head_complete(&mut self, seen: &mut impl FnMut(Frame, u32)) {
        let [a, b, c, kind, flags, s, t, u, v, code @ ..] = self.head;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        if kind == 0x3 && length == RESET - HEAD && self.want == HEAD {
            self.want = RESET;
            return;
        }
        self.skip = length - (self.want - HEAD);
        (self.have, self.want) = (0, HEAD);
        // The highest bit is reserved and ignored (RFC 9113, 4.1).
        let stream = u32::from_be_bytes([s & 0x7f, t, u, v]);
        seen(classify(kind, flags, length, u32::from_be_bytes(code)), stream);
    }
}

fn classify(kind: u8, flags: u8, length: usize, code: u32) -> Frame {
    let done = flags & END_HEADERS != 0;
    match kind {
        0x0 if length == 0 && flags & END_STREAM == 0 => Frame::EmptyData,
        0x0 => Frame::Data,
        0x1 | 0x5 => Frame::Headers { done, last: flags & END_STREAM != 0 },
        0x3 => Frame::Reset(code),
        0x4 if flags & ACK != 0 => Frame::SettingsAck,
        0x4 => Frame::Settings,
        0x6 if flags & ACK != 0 => Frame::Pong,
        0x6 => Frame::Ping,
        0x9 => Frame::Continuation { done },
        _ => Frame::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = payload.len() as u32;
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    fn frames(cuts: &[usize]) -> Vec<Frame> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, &[0; 12]));
        bytes.extend(frame(1, 0, b"abc"));
        bytes.extend(frame(9, 4, b"def"));
        bytes.extend(frame(0, 0, &[7; 300]));
        bytes.extend(frame(0, 0, &[]));
        bytes.extend(frame(0, 1, &[]));
        bytes.extend(frame(6, 0, &[0; 8]));
        bytes.extend(frame(6, 1, &[0; 8]));
        bytes.extend(frame(3, 0, &[0, 0, 0, 8]));
        bytes.extend(frame(2, 0, &[0; 5]));
        let mut state = Frames::after(24);
        let mut seen = Vec::new();
        let mut at = 0;
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            let end = (at + cut).min(bytes.len());
            state.advance(&bytes[at..end], |frame, stream| {
                assert_eq!(stream, 1);
                seen.push(frame);
            });
            at = end;
        }
        assert!(!state.is_inside());
        seen
    }

    proptest::proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_frames_are_the_same(cuts in proptest::collection::vec(0_usize..40, 0..60)) {
            proptest::prop_assert_eq!(frames(&cuts), vec![
                Frame::Settings, Frame::Headers { done: false, last: false }, Frame::Continuation { done: true }, Frame::Data,
                Frame::EmptyData, Frame::Data, Frame::Ping, Frame::Pong, Frame::Reset(8), Frame::Other,
            ]);
        }
    }
}
