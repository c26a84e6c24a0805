//! `mesh-agent controller`: settings, log, then the controller until it ends.

use super::run::bad_settings;
use super::{Exit, Outcome};
use crate::admin::LogHandle;
use crate::controller::{self, ControllerArgs, ControllerSettings};

/// Runs the controller.
pub fn run(args: &ControllerArgs) -> Outcome {
    let settings = ControllerSettings::resolve(args).map_err(bad_settings)?;
    LogHandle::install(&settings.log)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), source = %settings.source, "starting");
    controller::run(&settings)?;
    Ok(Exit::Ok)
}
