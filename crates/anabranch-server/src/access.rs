//! Who may read and write which space.

use std::sync::Arc;

use anabranch_core::SpaceName;
use anabranch_core::sync::Access;
use axum::http::HeaderMap;

/// What one session may do. It is asked on every message, so a right can end while the session lasts.
pub type SharedAccess = Arc<dyn Access + Send + Sync>;

/// Says from a request's headers what its sender may do; `None` refuses the request (401).
///
/// ```
/// use std::sync::Arc;
/// use anabranch_server::{Authorize, OpenAccess, SharedAccess};
/// let authorize: Authorize = Arc::new(|headers| {
///     let known = headers.get("authorization").is_some_and(|token| token == "Bearer correct-horse");
///     known.then(|| -> SharedAccess { Arc::new(OpenAccess) })
/// });
/// ```
pub type Authorize = Arc<dyn Fn(&HeaderMap) -> Option<SharedAccess> + Send + Sync>;

/// Everyone may do everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenAccess;

impl Access for OpenAccess {
    fn may_read(&self, _space: &SpaceName) -> bool {
        true
    }

    fn may_write(&self, _space: &SpaceName) -> bool {
        true
    }
}
