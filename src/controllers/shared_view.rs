//! The view as others see it: the router writes it, and admission reads it.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::view::View;

/// The view, read by others while the router writes it. A clone is the same one.
///
/// Nobody waits while he holds it, so that the router is not held up.
#[derive(Clone)]
pub struct SharedView(Arc<RwLock<View>>);

impl SharedView {
    /// Shares a view.
    pub fn new(view: View) -> Self {
        Self(Arc::new(RwLock::new(view)))
    }

    /// The view as it is now.
    pub fn read(&self) -> RwLockReadGuard<'_, View> {
        // The router ends the process if it breaks in the middle of a change.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, View> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
