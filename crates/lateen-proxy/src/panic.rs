//! What a panic says of itself, for the log.

use std::any::Any;

/// The message a panic was raised with.
pub(crate) fn reason(panic: &(dyn Any + Send)) -> &str {
    let fixed = panic.downcast_ref::<&str>().copied();
    fixed
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no reason given")
}
