//! Kernel programs of mesh-agent: what happens to a connection before the agent sees it.
//!
//! Order on a connection's way: `connect` decides and rewrites, `sock_ops` publishes the original destination once the
//! client's end is established and before the agent's is, `sk_lookup` picks the listener on the other side, `getpeername` and
//! `getsockname` keep what both applications see true. `udp` is for datagrams, `balance` for services that need no agent.
//! Every hook decides in a function that returns a [`mesh_common::Reason`]; the entry point counts it and turns it into
//! a literal verdict. The agent's side of the maps is mesh-agent/src/kernel.rs.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod addr;
#[cfg(target_arch = "bpf")]
mod balance;
#[cfg(target_arch = "bpf")]
mod bind;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod getpeername;
#[cfg(target_arch = "bpf")]
mod getsockname;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod sk_lookup;
#[cfg(target_arch = "bpf")]
mod sock_ops;
#[cfg(target_arch = "bpf")]
mod udp;

/// The helpers in use are GPL-only ones (ktime, socket storage).
#[cfg(target_arch = "bpf")]
// SAFETY: a section of that name is read by the loader only; nothing else links against it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: no program contains a panic (the verifier would see an endless loop and refuse it).
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The programs exist for the BPF target only; this lets host tools check the crate.
#[cfg(not(target_arch = "bpf"))]
fn main() {}
