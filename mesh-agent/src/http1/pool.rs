//! Buffers and tables that a thread's connections take turns with, so that a request allocates next to nothing and an
//! idle connection holds nothing. `conn` takes read and write buffers here, `head` field lists, `message` header maps.

use std::cell::RefCell;

use bytes::BytesMut;
use http::HeaderMap;

use super::head::Field;

/// Size of a fresh buffer: any usual head, and the pieces of most bodies.
pub const BUFFER: usize = 8 * 1024;
/// Kept per kind and thread.
const KEPT: usize = 128;
/// Tables that grew beyond this are not kept.
const KEPT_FIELDS: usize = 128;

#[derive(Default)]
struct Pool {
    buffers: Vec<BytesMut>,
    fields: Vec<Vec<Field>>,
    maps: Vec<HeaderMap>,
}

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

/// An empty buffer of at least [`BUFFER`] bytes.
pub fn take_buffer() -> BytesMut {
    POOL.with_borrow_mut(|pool| pool.buffers.pop()).unwrap_or_else(|| BytesMut::with_capacity(BUFFER))
}

/// Keeps a buffer unless somebody still refers to a part of it.
pub fn give_buffer(mut buffer: BytesMut) {
    buffer.clear();
    if buffer.try_reclaim(BUFFER) && buffer.capacity() <= 2 * BUFFER {
        POOL.with_borrow_mut(|pool| keep(&mut pool.buffers, buffer));
    }
}

/// An empty field list.
pub fn take_fields() -> Vec<Field> {
    POOL.with_borrow_mut(|pool| pool.fields.pop()).unwrap_or_default()
}

/// Keeps a field list.
pub fn give_fields(mut fields: Vec<Field>) {
    if fields.capacity() > 0 && fields.capacity() <= KEPT_FIELDS {
        fields.clear();
        POOL.with_borrow_mut(|pool| keep(&mut pool.fields, fields));
    }
}

/// An empty header map.
pub fn take_map() -> HeaderMap {
    POOL.with_borrow_mut(|pool| pool.maps.pop()).unwrap_or_default()
}

/// Keeps a header map; its values let go of their head.
pub fn give_map(mut map: HeaderMap) {
    if map.capacity() > 0 && map.capacity() <= KEPT_FIELDS {
        map.clear();
        POOL.with_borrow_mut(|pool| keep(&mut pool.maps, map));
    }
}

fn keep<T>(kept: &mut Vec<T>, item: T) {
    if kept.len() < KEPT {
        kept.push(item);
    }
}
