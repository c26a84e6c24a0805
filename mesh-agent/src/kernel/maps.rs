//! Typed handles on the pinned maps, and the few operations that aren't one call.
//!
//! mesh-ebpf/src/maps.rs says who writes and who reads each.

use std::path::Path;

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SkStorage, SockHash};
use mesh_common::{
    Addr, AffinityKey, AgentConfig, AgentFlow, Chosen, FlowKey, Liveness, LocalAddress, OriginalDst,
    OwnAddresses, PodEntry, ServiceEndpoint, ServiceEntry, ServiceKey, ServiceSlot, SocketRecord, SourceKey,
    UdpKey,
};

use super::{KernelError, bpffs};

pub(super) const PODS: &str = "PODS_V1";
pub(super) const ADDRESSES: &str = "ADDRESSES_V1";
pub(super) const OWN_ADDRESSES: &str = "OWN_ADDRESSES_V1";
pub(super) const CONFIG: &str = "CONFIG_V1";
pub(super) const LIVENESS: &str = "LIVENESS_V1";
pub(super) const SOCKETS: &str = "SOCKETS_V1";
pub(super) const ORIGINAL_DST: &str = "ORIGINAL_DST_V2";
pub(super) const AGENT_FLOWS: &str = "AGENT_FLOWS_V1";
pub(super) const SERVICES: &str = "SERVICES_V2";
pub(super) const ENDPOINTS: &str = "ENDPOINTS_V1";
pub(super) const AFFINITY: &str = "AFFINITY_V1";
pub(super) const UDP: &str = "UDP_V1";
pub(super) const UDP_SOCKETS: &str = "UDP_SOCKETS_V1";
pub(super) const LISTENERS: &str = "LISTENERS_V1";
pub(super) const HBONE_LISTENERS: &str = "HBONE_LISTENERS_V1";
pub(super) const REASONS: &str = "REASONS_V2";

/// A socket that exchanges no datagram with a service for this long may be led to another endpoint with the next one
/// (Linux, `nf_conntrack_udp_timeout_stream`, twice 120 s for margin). Seconds.
const UDP_IDLE_S: u64 = 240;

/// Every pinned map; the name is the pin's file name too.
pub(super) const NAMES: [&str; 16] = [
    PODS,
    ADDRESSES,
    OWN_ADDRESSES,
    CONFIG,
    LIVENESS,
    SOCKETS,
    ORIGINAL_DST,
    AGENT_FLOWS,
    SERVICES,
    ENDPOINTS,
    AFFINITY,
    UDP,
    UDP_SOCKETS,
    LISTENERS,
    HBONE_LISTENERS,
    REASONS,
];

pub(super) type Hash<K, V> = HashMap<MapData, K, V>;
pub(super) type Storage<V> = SkStorage<MapData, V>;

/// What the control thread writes and reads.
pub(super) struct Maps {
    pub(super) pods: Hash<u64, PodEntry>,
    pub(super) addresses: Hash<Addr, LocalAddress>,
    pub(super) own_addresses: Hash<u64, OwnAddresses>,
    pub(super) config: Array<MapData, AgentConfig>,
    pub(super) original_dst: Hash<SourceKey, OriginalDst>,
    pub(super) agent_flows: Hash<FlowKey, AgentFlow>,
    pub(super) services: Hash<ServiceKey, ServiceEntry>,
    pub(super) endpoints: Hash<ServiceSlot, ServiceEndpoint>,
    pub(super) affinity: Hash<AffinityKey, Chosen>,
    pub(super) udp: Hash<UdpKey, Chosen>,
    pub(super) listeners: SockHash<MapData, Addr>,
    pub(super) hbone_listeners: SockHash<MapData, Addr>,
    pub(super) reasons: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Opens every map from its pin.
    pub(super) fn open(dir: &Path) -> Result<Self, KernelError> {
        Ok(Self {
            pods: open_hash(dir, PODS)?,
            addresses: open_hash(dir, ADDRESSES)?,
            own_addresses: open_hash(dir, OWN_ADDRESSES)?,
            config: open_array(dir, CONFIG)?,
            original_dst: open_hash(dir, ORIGINAL_DST)?,
            agent_flows: open_hash(dir, AGENT_FLOWS)?,
            services: open_hash(dir, SERVICES)?,
            endpoints: open_hash(dir, ENDPOINTS)?,
            affinity: open_hash(dir, AFFINITY)?,
            udp: open_hash(dir, UDP)?,
            listeners: open::<Addr, u32, _>(dir, LISTENERS)?,
            hbone_listeners: open::<Addr, u32, _>(dir, HBONE_LISTENERS)?,
            reasons: open::<u32, u64, _>(dir, REASONS)?,
        })
    }

    pub(super) fn write_config(&mut self, config: &AgentConfig) -> Result<(), KernelError> {
        self.config.set(0, config, 0).map_err(KernelError::map(CONFIG))
    }

    /// Removes flows written before `before_ns`. An entry that can't be read any more is gone already.
    pub(super) fn sweep(&mut self, before_ns: u64) -> usize {
        let old: Vec<FlowKey> = self
            .agent_flows
            .iter()
            .flatten()
            .filter(|(_, v)| v.created_ns < before_ns)
            .map(|(k, _)| k)
            .collect();
        old.iter().filter(|key| self.agent_flows.remove(key).is_ok()).count()
    }

    /// Removes what was chosen for clients that have been quiet for too long: `affinity_s` says for how many seconds a
    /// service's clients may be.
    pub(super) fn sweep_chosen(&mut self, now_ns: u64, affinity_s: impl Fn(&AffinityKey) -> u32) {
        let quiet_s = |chosen: &Chosen| now_ns.saturating_sub(chosen.used_ns) / 1_000_000_000;
        let is_over = |(key, chosen): &(AffinityKey, Chosen)| quiet_s(chosen) >= affinity_s(key).into();
        let old: Vec<_> = self.affinity.iter().flatten().filter(is_over).map(|(key, _)| key).collect();
        // One that can't be removed is gone already, or tried again.
        old.iter().for_each(|key| drop(self.affinity.remove(key)));
        let is_over = |(_, chosen): &(UdpKey, Chosen)| quiet_s(chosen) >= UDP_IDLE_S;
        let old: Vec<_> = self.udp.iter().flatten().filter(is_over).map(|(key, _)| key).collect();
        old.iter().for_each(|key| drop(self.udp.remove(key)));
    }
}

/// A worker's map.
pub(super) fn open_sockets(dir: &Path) -> Result<Storage<SocketRecord>, KernelError> {
    open::<i32, SocketRecord, _>(dir, SOCKETS)
}

/// The same map, to be named to sock_diag.
pub(super) fn open_sockets_data(dir: &Path) -> Result<MapData, KernelError> {
    MapData::from_pin(bpffs::maps_dir(dir).join(SOCKETS)).map_err(KernelError::map(SOCKETS))
}

/// The heartbeat thread's map.
pub(super) fn open_liveness(dir: &Path) -> Result<Array<MapData, Liveness>, KernelError> {
    open_array(dir, LIVENESS)
}

fn open_hash<K: Pod, V: Pod>(dir: &Path, name: &'static str) -> Result<Hash<K, V>, KernelError> {
    open::<K, V, _>(dir, name)
}

fn open_array<V: Pod>(dir: &Path, name: &'static str) -> Result<Array<MapData, V>, KernelError> {
    open::<u32, V, _>(dir, name)
}

/// Opens a pin and makes sure that its sizes are what this agent expects of that name.
fn open<K, V, M: TryFrom<Map, Error = MapError>>(dir: &Path, name: &'static str) -> Result<M, KernelError> {
    let path = bpffs::maps_dir(dir).join(name);
    let data = MapData::from_pin(&path).map_err(KernelError::map(name))?;
    let info = data.info().map_err(KernelError::map(name))?;
    if info.key_size() as usize != size_of::<K>() || info.value_size() as usize != size_of::<V>() {
        return Err(KernelError::Layout { path });
    }
    Map::from_map_data(data).and_then(M::try_from).map_err(KernelError::map(name))
}

/// Whether an error says that the element wasn't there, for removals that needn't find anything.
pub(super) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}
