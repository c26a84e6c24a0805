//! Tokens that requests carry (JWT), as far as others ask about them.

mod claims;

pub use claims::Claims;
