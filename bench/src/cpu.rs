//! Processor time and memory, from /proc.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Microseconds in a clock tick of /proc: USER_HZ is 100 on every Linux that this runs on (man 7 time).
const MICROS_PER_TICK: u64 = 10_000;

/// User and system time of processes, all their threads, in microseconds.
pub fn of_processes(pids: &[u32]) -> Result<u64> {
    pids.iter().map(|pid| of_process(*pid)).sum()
}

fn of_process(pid: u32) -> Result<u64> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    // The name in parentheses may hold spaces; utime and stime are fields 14 and 15 (man 5 proc_pid_stat).
    let after = stat.rsplit_once(") ").context("a stat line without a name")?.1;
    let fields: Vec<u64> = after.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(fields.iter().sum::<u64>() * MICROS_PER_TICK)
}

/// Time that the whole machine wasn't idle, interrupts included, in microseconds.
pub fn of_machine() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("an empty /proc/stat")?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq; what a hypervisor stole isn't work.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|&index| fields.get(index)).sum::<u64>();
    Ok(busy * MICROS_PER_TICK)
}

/// How many cores are busy while the bench does nothing, over two seconds.
pub fn background() -> Result<f64> {
    let (begin, before) = (Instant::now(), of_machine()?);
    thread::sleep(Duration::from_secs(2));
    Ok((of_machine()? - before) as f64 / begin.elapsed().as_micros() as f64)
}

/// Resident memory of processes in bytes.
pub fn resident(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
        sum += kilobytes * 1024;
    }
    Ok(sum)
}
