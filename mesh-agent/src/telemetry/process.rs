//! Prometheus's standard process metrics, read from /proc at every scrape.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, IntGauge};

/// Memory, CPU time, threads and descriptors of this process.
#[derive(Clone, Debug)]
pub(super) struct ProcessCollector {
    resident: IntGauge,
    virtual_size: IntGauge,
    threads: IntGauge,
    open_fds: IntGauge,
    cpu_seconds: Counter,
}

impl ProcessCollector {
    #[expect(clippy::expect_used, reason = "constant names, tested")]
    pub(super) fn new() -> Self {
        let int = |name: &str, help: &str| IntGauge::new(name, help).expect("valid name");
        Self {
            resident: int("process_resident_memory_bytes", "Resident memory."),
            virtual_size: int("process_virtual_memory_bytes", "Virtual memory."),
            threads: int("process_threads", "Threads."),
            open_fds: int("process_open_fds", "Open file descriptors."),
            cpu_seconds: Counter::new("process_cpu_seconds_total", "CPU time, user and system.")
                .expect("valid name"),
        }
    }

    /// What can't be read keeps its last value.
    fn refresh(&self) {
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse_stat) {
            let cpu_seconds = stat.cpu_ticks as f64 / clock_ticks();
            self.cpu_seconds.inc_by((cpu_seconds - self.cpu_seconds.get()).max(0.0));
            self.threads.set(stat.threads);
            self.virtual_size.set(stat.virtual_bytes);
            self.resident.set(stat.resident_pages.saturating_mul(page_size()));
        }
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            self.open_fds.set(i64::try_from(entries.count()).unwrap_or(i64::MAX));
        }
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.resident, &self.virtual_size, &self.threads, &self.open_fds];
        gauges.into_iter().flat_map(|g| g.desc()).chain(self.cpu_seconds.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        let gauges = [&self.resident, &self.virtual_size, &self.threads, &self.open_fds];
        gauges.into_iter().flat_map(|g| g.collect()).chain(self.cpu_seconds.collect()).collect()
    }
}

struct Stat {
    cpu_ticks: u64,
    threads: i64,
    virtual_bytes: i64,
    resident_pages: i64,
}

/// proc_pid_stat(5); fields are counted from the state, which follows the command's closing parenthesis.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, after_command) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after_command.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
    Some(Stat {
        cpu_ticks: u64::try_from(field(14)? + field(15)?).ok()?,
        threads: field(20)?,
        virtual_bytes: field(23)?,
        resident_pages: field(24)?,
    })
}

fn clock_ticks() -> f64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64
}

fn page_size() -> i64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_is_no_trouble() {
        let text =
            "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 100 2048 33 18446744073709551615";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            (stat.cpu_ticks, stat.threads, stat.virtual_bytes, stat.resident_pages),
            (200, 9, 2048, 33)
        );
    }
}
