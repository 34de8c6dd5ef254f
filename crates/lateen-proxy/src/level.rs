//! Gauges that count what exists: one up now, one down when dropped, whatever path leads there.

use lateen_telemetry::metrics::Gauge;

/// One unit on a gauge.
#[derive(Debug)]
pub(crate) struct Level(Gauge);

impl Level {
    /// Counts one more on `gauge` for as long as this lives.
    pub(crate) fn hold(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.0.dec();
    }
}
