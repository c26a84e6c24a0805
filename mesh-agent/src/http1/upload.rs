//! A request's body on its way to a server, kept across tries: where in the body we are, and what was sent of it.
//!
//! Used by `forward`, owned by `serve`. Bytes are kept as they came, chunk framing included, so that another try sends
//! them just so; a body that outgrows the buffer can't be sent again.

use std::cell::{Cell, RefCell};

use bytes::{BufMut, Bytes, BytesMut};

use super::body::Body;

/// What is still to be sent, and what was.
pub struct Upload {
    /// What is still to be sent.
    pub flow: Flow,
    /// What was.
    pub sent: Sent,
}

/// How far a body was moved.
pub struct Flow {
    /// What is to come.
    pub body: Body,
    /// Bytes at hand that belong to it and weren't sent yet.
    pub left: usize,
    /// It ends with these.
    pub end: bool,
}

/// What a server took of a body, as far as it may be needed again.
pub struct Sent {
    any: Cell<bool>,
    kept: RefCell<Option<BytesMut>>,
    limit: usize,
}

impl Upload {
    /// At its beginning; up to `keep` bytes will be kept.
    pub fn new(body: Body, keep: usize) -> Self {
        let kept = (keep > 0 && !body.is_done()).then(BytesMut::new);
        let sent = Sent { any: Cell::new(false), kept: RefCell::new(kept), limit: keep };
        Self { flow: Flow::new(body), sent }
    }

    /// True if all of it has come, and can be sent again.
    pub fn is_complete(&self) -> bool {
        let come = self.flow.body.is_done() || self.flow.end;
        come && self.flow.left == 0 && self.sent.is_whole()
    }
}

impl Flow {
    /// At its beginning.
    pub fn new(body: Body) -> Self {
        Self { body, left: 0, end: false }
    }
}

impl Sent {
    /// Notes what a server took.
    pub fn add(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.any.set(true);
        let mut kept = self.kept.borrow_mut();
        if let Some(so_far) = kept.as_mut() {
            if so_far.len() + bytes.len() > self.limit {
                *kept = None;
            } else {
                so_far.put_slice(bytes);
            }
        }
    }

    /// Keeps up to `limit` bytes where nothing was to be kept. Before anything is sent.
    pub fn keep_at_least(&mut self, limit: usize) {
        if self.kept.get_mut().is_none() {
            (self.limit, self.kept) = (limit, RefCell::new(Some(BytesMut::new())));
        }
    }

    /// It won't be sent again.
    pub fn keep_nothing(&self) {
        self.kept.take();
    }

    /// True if no byte was sent yet.
    pub fn is_untouched(&self) -> bool {
        !self.any.get()
    }

    /// What goes again, by itself.
    pub fn again(&self) -> Bytes {
        self.kept.borrow().as_ref().map(|kept| Bytes::copy_from_slice(kept)).unwrap_or_default()
    }

    /// True if the request can be sent again from its beginning.
    pub fn is_whole(&self) -> bool {
        !self.any.get() || self.kept.borrow().is_some()
    }

    /// Puts what goes again right behind the head.
    pub fn put(&self, out: &mut BytesMut) {
        if let Some(kept) = &*self.kept.borrow() {
            out.extend_from_slice(kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keep: usize, parts: &[&[u8]], whole: bool, again: &[u8]) {
        let upload = Upload::new(Body::length(100), keep);
        parts.iter().for_each(|part| upload.sent.add(part));
        let mut out = BytesMut::new();
        upload.sent.put(&mut out);
        assert_eq!((upload.sent.is_whole(), &out[..]), (whole, again), "{keep} {parts:?}");
    }

    #[test]
    fn what_was_sent_is_kept_up_to_the_limit_and_then_not_at_all() {
        check(4, &[b"ab", b"cd"], true, b"abcd");
        check(4, &[b"ab", b"cde"], false, b"");
        check(0, &[b""], true, b"");
        check(0, &[b"a"], false, b"");
    }
}
