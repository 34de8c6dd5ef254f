//! The pieces of `lateen up` that are plain functions.

pub(crate) mod cron;
pub(crate) mod desired;
pub(crate) mod images;
pub(crate) mod publish;
