//! A pod's network namespace as enrolment holds it: opened in one of two ways, and asked every second whether the pod is
//! still in it.
//!
//! A directory's pod names a path. A pod of Kubernetes is known by its processes (`find`), of which one is held: as long as it
//! lives in the namespace that is open here, nothing has changed.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use super::EnrolError;
use super::find::{Found, Identity, Process};
use crate::model::Netns;

/// Open, and so alive.
#[derive(Debug)]
pub(super) struct PodNetns {
    fd: Arc<OwnedFd>,
    identity: Identity,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Path(PathBuf),
    Process { uid: String, process: Process },
}

/// Whether a pod is still in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Still {
    /// It is.
    Here,
    /// It is in another, or in none.
    Gone,
    /// The process that was held has ended: `find` has to look for others.
    Unsure,
}

impl PodNetns {
    /// The one that `path` leads to now.
    pub fn at(path: &PathBuf) -> Result<Self, EnrolError> {
        let open_error = |source| EnrolError::Open { path: path.clone(), source };
        let file = File::open(path).map_err(open_error)?;
        let identity = Identity::of(&file).map_err(open_error)?;
        Ok(Self { fd: Arc::new(file.into()), identity, way: Way::Path(path.clone()) })
    }

    /// The one in which a process of the pod `uid` was found.
    pub fn found(uid: &str, found: Found) -> Self {
        let Found { netns, identity, process } = found;
        Self { fd: Arc::new(netns), identity, way: Way::Process { uid: uid.to_owned(), process } }
    }

    /// True if a process was found in this one.
    pub fn has(&self, found: &Found) -> bool {
        found.identity == self.identity
    }

    /// Another process of the pod, found in this one, is held from now on.
    pub fn hold(&mut self, found: Found) {
        if let Way::Process { process, .. } = &mut self.way {
            *process = found.process;
        }
    }

    /// Whether the pod that says `netns` is still in it. Costs a stat(2).
    pub fn still(&self, netns: Option<&Netns>) -> Still {
        match (&self.way, netns) {
            (Way::Path(path), Some(Netns::Path(now))) if path == now => match Identity::at(path) {
                Ok(identity) if identity == self.identity => Still::Here,
                _ => Still::Gone,
            },
            (Way::Process { uid, process }, Some(Netns::Uid(now))) if uid == now => match process.netns() {
                Ok(identity) if identity == self.identity => Still::Here,
                // A process may leave for a namespace of its own; the pod doesn't move with it.
                Ok(_) | Err(_) => Still::Unsure,
            },
            _ => Still::Gone,
        }
    }

    /// For whoever makes sockets in it.
    pub fn share(&self) -> Arc<OwnedFd> {
        self.fd.clone()
    }
}

impl AsFd for PodNetns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
