//! The programs' debug lines, brought into the agent's log under the target `mesh_ebpf`.
//!
//! Whether they are compiled in is decided when the programs are loaded: the level is a constant to the verifier, which
//! cuts the lines out when it is off.

use std::os::fd::AsFd;
use std::thread;

use aya::Ebpf;
use aya_log::{EbpfLogger, Level};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const TARGET: &str = "mesh_ebpf";

/// What the programs log: everything, if the agent's filter lets `mesh_ebpf=debug` through, else nothing.
pub(super) fn level() -> u8 {
    if tracing::enabled!(target: TARGET, tracing::Level::DEBUG) { Level::Debug as u8 } else { 0 }
}

/// Forwards lines on a thread of their own for as long as the process lives, if they are on.
pub(super) fn forward(ebpf: &mut Ebpf) {
    if level() == 0 {
        return;
    }
    let logger = match EbpfLogger::init_with_logger(ebpf, ToTracing) {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!(%error, "the kernel programs' debug lines can't be read"),
    };
    let spawned = thread::Builder::new().name("mesh-ebpf-log".to_owned()).spawn(move || read(logger));
    if let Err(error) = spawned {
        tracing::warn!(%error, "the kernel programs' debug lines can't be read");
    }
}

fn read(mut logger: EbpfLogger<ToTracing>) {
    loop {
        let mut ring = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ring, PollTimeout::NONE).is_err_and(|errno| errno != Errno::EINTR) {
            return;
        }
        logger.flush();
    }
}

/// aya speaks the `log` crate's interface.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::debug!(target: TARGET, "{}", record.args());
    }

    fn flush(&self) {}
}
