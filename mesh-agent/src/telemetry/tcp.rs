//! Figures of the opaque connections of one edge.
//!
//! Istio names bytes from the server's point of view: `sent` is what went to the client in response, `received` what
//! came from the client in request, whoever reports (istio issue 32399). The proxy adds to them while it copies.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::live::Figures;
use crate::flags::Flag;

/// Counters of opaque connections between one source and one destination.
#[derive(Debug)]
pub struct TcpSeries {
    opened: AtomicU64,
    closed: Box<[AtomicU64]>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Default for TcpSeries {
    fn default() -> Self {
        let closed = Flag::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        Self { opened: AtomicU64::new(0), closed, sent: AtomicU64::new(0), received: AtomicU64::new(0) }
    }
}

impl TcpSeries {
    /// A connection was opened.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    /// A connection ended, well ([`Flag::None`]) or otherwise.
    pub fn closed(&self, flag: Flag) {
        if let Some(counter) = self.closed.get(flag as usize) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Bytes that went from the server to the client.
    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Relaxed);
    }

    /// Bytes that went from the client to the server.
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Relaxed);
    }

    /// [`Self::received`] and [`Self::sent`] in one call.
    pub fn carried(&self, from_client: u64, from_server: u64) {
        self.received(from_client);
        self.sent(from_server);
    }

    pub(super) fn opened_total(&self) -> u64 {
        self.opened.load(Relaxed)
    }

    /// Every flag that a connection ended with so far.
    pub(super) fn closed_totals(&self) -> impl Iterator<Item = (Flag, u64)> + '_ {
        let counted = Flag::ALL.iter().zip(&self.closed).map(|(flag, n)| (*flag, n.load(Relaxed)));
        counted.filter(|(_, n)| *n > 0)
    }

    pub(super) fn sent_total(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub(super) fn received_total(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Everything counted so far.
    pub(super) fn figures(&self) -> Figures {
        // Opened last: a connection that ends meanwhile isn't one that was never opened.
        let (flags, closed): (BTreeMap<_, _>, u64) = {
            let closed: Vec<_> = self.closed_totals().collect();
            let all = closed.iter().map(|(_, n)| n).sum();
            (closed.into_iter().filter(|(flag, _)| *flag != Flag::None).collect(), all)
        };
        Figures {
            opened: self.opened_total(),
            closed,
            sent: self.sent_total(),
            received: self.received_total(),
            flags,
            ..Figures::default()
        }
    }

    /// Changes whenever anything here does.
    pub(super) fn activity(&self) -> u64 {
        let closed = self.closed_totals().fold(0u64, |sum, (_, n)| sum.wrapping_add(n));
        [self.opened_total(), closed, self.sent_total(), self.received_total()]
            .into_iter()
            .fold(0, u64::wrapping_add)
    }
}
