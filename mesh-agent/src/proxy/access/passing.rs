//! A request's head on its way in: in place where it arrives in this connection's own pod, a copy where other endpoints may be
//! tried with what the client sent; and what was found out about it there.

use std::rc::Rc;
use std::sync::Arc;

use http::request;

use crate::jwt::Claims;
use crate::route::HeaderEdits;

/// A head that may be changed.
pub(in crate::proxy) enum Passing<'h> {
    /// In place.
    Own(&'h mut request::Parts),
    /// By a copy, once something changes.
    Shared(&'h request::Parts, Option<Box<request::Parts>>),
}

impl Passing<'_> {
    /// As it is now.
    pub(in crate::proxy) fn head(&self) -> &request::Parts {
        match self {
            Self::Own(head) => head,
            Self::Shared(head, None) => head,
            Self::Shared(_, Some(changed)) => changed,
        }
    }

    /// To be changed.
    pub(in crate::proxy) fn change(&mut self) -> &mut request::Parts {
        match self {
            Self::Own(head) => head,
            Self::Shared(head, changed) => changed.get_or_insert_with(|| Box::new(head.clone())),
        }
    }

    /// The copy, if there is one.
    pub(super) fn changed(self) -> Option<Box<request::Parts>> {
        match self {
            Self::Own(_) => None,
            Self::Shared(_, changed) => changed,
        }
    }
}

/// What is known of a request that was let in.
#[derive(Debug, Default)]
pub struct Admitted {
    /// Of its token.
    pub claims: Option<Arc<Claims>>,
    /// Its head as the endpoint gets it, where that isn't as it was.
    pub head: Option<Box<request::Parts>>,
    /// Its target is another one.
    pub retargeted: bool,
    /// What changes in its response.
    pub told: Option<Box<HeaderEdits>>,
}

impl Admitted {
    /// With the head that the endpoint gets. None if there is nothing to remember.
    pub(super) fn noted(mut self, head: Option<Box<request::Parts>>) -> Option<Rc<Self>> {
        self.head = head;
        let nothing = self.claims.is_none() && self.head.is_none() && !self.retargeted && self.told.is_none();
        (!nothing).then(|| Rc::new(self))
    }
}
