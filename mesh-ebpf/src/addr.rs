//! Addresses out of and into contexts, which hold one word for IPv4 and four for IPv6, in network order.
//!
//! Hooks and maps see four words only, IPv4 in its IPv4-mapped form. Nothing here touches a map.

use core::ptr;

use aya_ebpf::bindings::{bpf_sock_addr, bpf_sock_ops};
use mesh_common::{Addr, V4_MAPPED};

/// 127.0.0.1, network order.
const LOCALHOST: u32 = 0x7f00_0001u32.to_be();
/// AF_INET.
pub const AF_INET: u32 = 2;

/// The mapped form of an IPv4 address in network order.
#[inline(always)]
pub const fn mapped(ip4: u32) -> Addr {
    [0, 0, V4_MAPPED, ip4]
}

/// True for the IPv4-mapped form.
#[inline(always)]
pub fn is_mapped(words: &Addr) -> bool {
    words[0] == 0 && words[1] == 0 && words[2] == V4_MAPPED
}

/// True if connect(2) to it stays on the pod's loopback: 127/8, ::1, and the unspecified address, which means localhost.
#[inline(always)]
pub fn is_loopback(words: &Addr) -> bool {
    if is_mapped(words) {
        return words[3] == 0 || u32::from_be(words[3]) >> 24 == 127;
    }
    words[0] == 0 && words[1] == 0 && words[2] == 0 && u32::from_be(words[3]) <= 1
}

/// The loopback address of the same family: where the agent listens in the pod.
#[inline(always)]
pub fn loopback_like(words: &Addr) -> Addr {
    if is_mapped(words) { mapped(LOCALHOST) } else { [0, 0, 0, 1u32.to_be()] }
}

/// Destination (or peer) of a socket address hook.
///
/// # Safety
/// `ctx` is the hook's context, and the hook is one of the IPv4 (`v4`) or the IPv6 variants.
#[inline(always)]
pub unsafe fn user_addr(ctx: *mut bpf_sock_addr, v4: bool) -> (Addr, u16) {
    // SAFETY: context fields that the verifier allows this hook to read.
    unsafe {
        let words = if v4 { mapped((*ctx).user_ip4) } else { (*ctx).user_ip6 };
        (words, u16::from_be((*ctx).user_port as u16))
    }
}

/// Replaces destination (or peer). An IPv4 hook takes the last word.
///
/// # Safety
/// As for [`user_addr`].
#[inline(always)]
pub unsafe fn set_user_addr(ctx: *mut bpf_sock_addr, v4: bool, words: &Addr, port: u16) {
    // SAFETY: context fields that the verifier allows this hook to write.
    unsafe {
        if v4 {
            (*ctx).user_ip4 = words[3];
        } else {
            (*ctx).user_ip6 = *words;
        }
        (*ctx).user_port = u32::from(port.to_be());
    }
}

/// Copies an address out of a map's value, word by word: left to itself the compiler calls memmove, which copies bytes.
#[inline(always)]
pub fn copy(address: &Addr) -> Addr {
    let word = |i: usize| {
        // SAFETY: only called with indices of the array, just below.
        unsafe { ptr::read_volatile(address.as_ptr().add(i)) }
    };
    [word(0), word(1), word(2), word(3)]
}

/// Picks the address of a context that has one field for each family.
///
/// Volatile, and both read, for the verifier's sake: it allows context fields at constant offsets only, and the compiler
/// would choose the field's address first and load once.
///
/// # Safety
/// Both point into the hook's context, at fields that it may read.
#[inline(always)]
pub unsafe fn either(family: u32, ip4: *const u32, ip6: *const [u32; 4]) -> Addr {
    let ip6 = ip6.cast::<u32>();
    // SAFETY: as promised by the caller; the array has four words.
    let (v4, v6) = unsafe {
        let v6 = [
            ptr::read_volatile(ip6),
            ptr::read_volatile(ip6.add(1)),
            ptr::read_volatile(ip6.add(2)),
            ptr::read_volatile(ip6.add(3)),
        ];
        (ptr::read_volatile(ip4), v6)
    };
    if family == AF_INET { mapped(v4) } else { v6 }
}

/// Local address and port of a sockops context. The kernel keeps the mapped form for IPv4 in the IPv6 fields of a socket
/// too, but only if it is built with IPv6, so IPv4 sockets are read from their own field.
///
/// # Safety
/// `ops` is the hook's context.
#[inline(always)]
pub unsafe fn local(ops: *mut bpf_sock_ops) -> (Addr, u16) {
    // SAFETY: context fields that every sockops callback may read. `local_port` is in host order already.
    unsafe {
        let words = either((*ops).family, &raw const (*ops).local_ip4, &raw const (*ops).local_ip6);
        (words, (*ops).local_port as u16)
    }
}

/// Remote address and port of a sockops context.
///
/// # Safety
/// As for [`local`].
#[inline(always)]
pub unsafe fn remote(ops: *mut bpf_sock_ops) -> (Addr, u16) {
    // SAFETY: context fields that every sockops callback may read. `remote_port` is 32 bits in network order.
    unsafe {
        let words = either((*ops).family, &raw const (*ops).remote_ip4, &raw const (*ops).remote_ip6);
        (words, u32::from_be((*ops).remote_port) as u16)
    }
}
