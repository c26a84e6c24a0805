//! Every [`Origination`] in use, once for each [`Spec`]: what a change of other settings leaves alone keeps its files, its
//! sessions and its connections.
//!
//! `model::build` asks for one when it compiles a policy, which reads no file; `source` refreshes them all before it
//! publishes a snapshot and every few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::originate::{Origination, Problem};
use super::spec::Spec;

/// Originations by what they are.
#[derive(Debug, Default)]
pub struct Store(Mutex<HashMap<Spec, Weak<Origination>>>);

/// What is wrong with the files of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// Whose they are.
    pub spec: Spec,
    /// The field of `tls` that names the file.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// True if those read before stay in force; else nothing is sent.
    pub former: bool,
}

impl Store {
    /// The one for `spec`, new or known.
    pub fn get(&self, spec: Spec) -> Arc<Origination> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(origination) = known.get(&spec).and_then(Weak::upgrade) {
            return origination;
        }
        let origination = Arc::new(Origination::new(spec.clone()));
        known.insert(spec, Arc::downgrade(&origination));
        origination
    }

    /// Reads what is new and what changed on disk, and forgets what nobody uses any more.
    pub fn refresh(&self) {
        self.all().iter().for_each(|origination| origination.refresh());
    }

    /// What is wrong as of the last refresh.
    pub fn problems(&self) -> Vec<FileProblem> {
        let problem = |origination: &Arc<Origination>| {
            let Problem { field, message, former } = origination.problem()?;
            Some(FileProblem { spec: origination.spec().clone(), field, message, former })
        };
        self.all().iter().filter_map(problem).collect()
    }

    fn all(&self) -> Vec<Arc<Origination>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, origination| origination.strong_count() > 0);
        known.values().filter_map(Weak::upgrade).collect()
    }
}
