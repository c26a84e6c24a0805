//! What is loaded, attached, pinned and in the maps, for `status`, `bpf` and the metrics.
//!
//! Cheap enough for every scrape: services and endpoints are counted by what was written, and the other maps aren't walked
//! again before a pause that is much longer than the walk took.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::MapData;
use aya::programs::Program;

use super::maps::Maps;
use super::services::Services;
use super::{bpffs, maps, sys};

/// Maps are walked again after so many times as long as it took: a twentieth of the control thread's time at most.
const WALK_PAUSE: u32 = 20;

/// The kernel side as it is now.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelStatus {
    /// Loaded programs.
    pub programs: Vec<ProgramStatus>,
    /// Pinned maps.
    pub maps: Vec<MapStatus>,
    /// Pinned links.
    pub links: Vec<LinkStatus>,
    /// Since the last heartbeat; none before the first and after the last.
    pub heartbeat_age_ms: Option<u64>,
}

/// One program.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramStatus {
    /// Its name.
    pub name: String,
    /// Where the kernel runs it, by the name of the attach type (`cgroup/connect4`).
    pub hook: String,
    /// Kernel's id, as bpftool shows it.
    pub id: u32,
    /// Nanoseconds spent in it; 0 unless `kernel.bpf_stats_enabled` is set.
    pub run_time_ns: u64,
    /// How often it ran; 0 unless `kernel.bpf_stats_enabled` is set.
    pub run_count: u64,
    /// Instructions that the verifier walked.
    pub verified_instructions: u32,
    /// Bytes of machine code.
    pub jited_bytes: u32,
    /// Where it is attached: the pinned links that run it.
    pub attached: Vec<String>,
}

/// One map.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapStatus {
    /// Its name.
    pub name: &'static str,
    /// Its type (`hash`).
    pub kind: String,
    /// Kernel's id, as bpftool shows it.
    pub id: u32,
    /// Entries in it; 0 for what can't be counted (socket storage).
    pub entries: usize,
    /// Limit; 0 for none (socket storage).
    pub max_entries: u32,
    /// The pin.
    pub pin: String,
}

/// One pinned link.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkStatus {
    /// Kernel's id, as bpftool shows it.
    pub id: u32,
    /// Program that it runs.
    pub program_id: u32,
    /// `cgroup ID` or `netns INODE`; `gone` where that isn't there any more.
    pub target: String,
    /// The pin.
    pub pin: String,
}

/// Entries of maps that are counted by walking their keys, and when that was done.
#[derive(Debug, Default)]
pub(super) struct Counts {
    entries: HashMap<&'static str, usize>,
    /// When the last walk ended, and how long it took.
    last: Option<(Instant, Duration)>,
}

impl Counts {
    /// Walking is never more than a small share of the time, however full maps are and however often somebody asks.
    fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|(ended, took)| now.duration_since(ended) >= took * WALK_PAUSE)
    }

    fn refresh(&mut self, maps: &Maps) {
        let begun = Instant::now();
        if self.is_due(begun) {
            let walked = maps::NAMES.into_iter().filter(|name| !by_the_books(name));
            self.entries = walked.map(|name| (name, walk(maps, name))).collect();
            let ended = Instant::now();
            self.last = Some((ended, ended.duration_since(begun)));
        }
    }
}

/// At their size, nobody wants to walk them.
fn by_the_books(name: &str) -> bool {
    matches!(name, maps::SERVICES | maps::ENDPOINTS)
}

pub(super) fn status(
    ebpf: &Ebpf,
    maps: &Maps,
    services: &Services,
    counts: &mut Counts,
    bpffs_dir: &Path,
) -> KernelStatus {
    counts.refresh(maps);
    let mut links = links_in(&bpffs::links_dir(bpffs_dir));
    links.extend(links_in(&bpffs::netns_dir(bpffs_dir)));
    KernelStatus {
        programs: programs(ebpf, &links),
        maps: map_status(counts, services, bpffs_dir),
        links,
        heartbeat_age_ms: heartbeat_age_ms(bpffs_dir),
    }
}

pub(super) fn heartbeat_age_ms(bpffs_dir: &Path) -> Option<u64> {
    let beat = maps::open_liveness(bpffs_dir).ok()?.get(&0, 0).ok()?.beat_ns;
    (beat > 0).then(|| super::monotonic_ns().saturating_sub(beat) / 1_000_000)
}

fn programs(ebpf: &Ebpf, links: &[LinkStatus]) -> Vec<ProgramStatus> {
    let infos = ebpf.programs().filter_map(|(name, program)| Some((name, program, program.info().ok()?)));
    let mut programs: Vec<_> = infos
        .map(|(name, program, info)| ProgramStatus {
            name: name.to_owned(),
            hook: hook(name, program),
            id: info.id(),
            run_time_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
            run_count: info.run_count(),
            verified_instructions: info.verified_instruction_count().unwrap_or(0),
            jited_bytes: info.size_jitted(),
            attached: links
                .iter()
                .filter(|link| link.program_id == info.id())
                .map(|l| l.target.clone())
                .collect(),
        })
        .collect();
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    programs
}

/// Cgroup programs for addresses carry the name of their attach type; the others' type has only one.
fn hook(name: &str, program: &Program) -> String {
    match program {
        Program::CgroupSockAddr(_) => format!("cgroup/{name}"),
        Program::CgroupSock(_) => format!("cgroup/{name}"),
        Program::SockOps(_) => "sockops".to_owned(),
        Program::SkLookup(_) => "sk_lookup".to_owned(),
        other => format!("{:?}", other.prog_type()).to_lowercase(),
    }
}

fn map_status(counts: &Counts, services: &Services, bpffs_dir: &Path) -> Vec<MapStatus> {
    maps::NAMES
        .into_iter()
        .filter_map(|name| {
            let path = bpffs::maps_dir(bpffs_dir).join(name);
            let info = MapData::from_pin(&path).and_then(|map| map.info()).ok()?;
            Some(MapStatus {
                name,
                kind: info.map_type().map(|kind| format!("{kind:?}").to_lowercase()).unwrap_or_default(),
                id: info.id(),
                entries: match name {
                    maps::SERVICES => services.entries().0,
                    maps::ENDPOINTS => services.entries().1,
                    _ => counts.entries.get(name).copied().unwrap_or_default(),
                },
                max_entries: info.max_entries(),
                pin: path.display().to_string(),
            })
        })
        .collect()
}

/// Entries of a map, by walking its keys.
pub(super) fn walk(maps: &Maps, name: &str) -> usize {
    match name {
        maps::PODS => maps.pods.keys().flatten().count(),
        maps::ADDRESSES => maps.addresses.keys().flatten().count(),
        maps::OWN_ADDRESSES => maps.own_addresses.keys().flatten().count(),
        maps::ORIGINAL_DST => maps.original_dst.keys().flatten().count(),
        maps::AGENT_FLOWS => maps.agent_flows.keys().flatten().count(),
        maps::SERVICES => maps.services.keys().flatten().count(),
        maps::ENDPOINTS => maps.endpoints.keys().flatten().count(),
        maps::AFFINITY => maps.affinity.keys().flatten().count(),
        maps::UDP => maps.udp.keys().flatten().count(),
        maps::LISTENERS => maps.listeners.keys().flatten().count(),
        maps::HBONE_LISTENERS => maps.hbone_listeners.keys().flatten().count(),
        maps::CONFIG | maps::LIVENESS => 1,
        maps::REASONS => mesh_common::Reason::ALL.len(),
        _ => 0,
    }
}

fn links_in(dir: &Path) -> Vec<LinkStatus> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let pins = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let mut links: Vec<_> = pins.filter_map(|entry| link_status(&entry.path())).collect();
    links.sort_by(|a, b| a.pin.cmp(&b.pin));
    links
}

fn link_status(pin: &Path) -> Option<LinkStatus> {
    let link = sys::open_pin(pin).ok()?;
    let info = sys::link_info(link.as_fd()).ok()?;
    let target = match info.target {
        sys::LinkTarget::Cgroup(0) | sys::LinkTarget::Netns(0) | sys::LinkTarget::Other => "gone".to_owned(),
        sys::LinkTarget::Cgroup(id) => format!("cgroup {id}"),
        sys::LinkTarget::Netns(inode) => format!("netns {inode}"),
    };
    Some(LinkStatus { id: info.id, program_id: info.program_id, target, pin: pin.display().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_maps_are_counted_less_often() {
        let now = Instant::now();
        let after = |took, pause| {
            let counts = Counts { last: Some((now, took)), ..Counts::default() };
            counts.is_due(now + pause)
        };
        assert!(Counts::default().is_due(now), "never counted so far");
        assert!(after(Duration::from_micros(50), Duration::from_millis(1)));
        assert!(!after(Duration::from_millis(50), Duration::from_millis(999)));
        assert!(after(Duration::from_millis(50), Duration::from_secs(1)));
    }
}
