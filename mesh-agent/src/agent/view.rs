//! The kernel's state as the admin API shows it.

use mesh_common::Reason;

use crate::admin::api;
use crate::kernel::KernelStatus;

/// Programs, maps and reasons.
pub(super) fn kernel(status: KernelStatus, reasons: &[(Reason, u64)]) -> api::Kernel {
    let programs = status.programs.into_iter().map(|program| api::Program {
        hook: program.hook,
        name: program.name,
        id: program.id,
        attached_to: program.attached,
        run_count: program.run_count,
        run_time_ns: program.run_time_ns,
    });
    let maps = status.maps.into_iter().map(|map| api::Map {
        name: map.name.to_owned(),
        kind: map.kind.to_owned(),
        entries: (map.max_entries > 0).then_some(map.entries as u64),
        max_entries: u64::from(map.max_entries),
        pin: map.pin,
    });
    let reasons = reasons.iter().map(|(reason, count)| api::Reason {
        number: *reason as u32,
        reason: reason.label().to_owned(),
        count: *count,
    });
    api::Kernel {
        release: nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        heartbeat_age_ms: status.heartbeat_age_ms,
        programs: programs.collect(),
        maps: maps.collect(),
        reasons: reasons.collect(),
    }
}
