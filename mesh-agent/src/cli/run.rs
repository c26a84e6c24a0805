//! `mesh-agent run`: settings, log, then the daemon until it ends.

use super::{Exit, Failure, Outcome};
use crate::admin::LogHandle;
use crate::agent;
use crate::settings::{Origin, RunArgs, Settings, SettingsError};

/// Runs the agent of this node.
pub fn run(args: &RunArgs) -> Outcome {
    let settings = Settings::resolve(args).map_err(bad_settings)?;
    let log = LogHandle::install(&settings.log)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = settings.node_name,
        source = %settings.source,
        workers = settings.workers,
        "starting"
    );
    agent::run(&settings, log)?;
    tracing::info!("ended");
    Ok(Exit::Ok)
}

/// Flags and environment are usage; a file is input. Where both are wrong, the command line is.
pub(super) fn bad_settings(error: SettingsError) -> Failure {
    let exit = match &error {
        SettingsError::Values(bad) if bad.iter().all(|bad| matches!(bad.origin, Origin::File(..))) => {
            Exit::BadInput
        }
        SettingsError::Values(_) => Exit::Usage,
        SettingsError::Unreadable { .. } | SettingsError::Invalid { .. } => Exit::BadInput,
    };
    Failure::new(exit, error)
}
