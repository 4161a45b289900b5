//! How long an idle sandbox stays, and when one is started for a call that is foreseen.

use std::fmt::Debug;
use std::time::Duration;

use super::KeepAlive;
use super::histogram::{Histogram, bin_us};
use crate::config::{Config, HistogramConfig};

/// What becomes of a function's sandboxes after its last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Gone at once, and one there again after this long; zero: it stays.
    pub prewarm: Duration,
    /// How long it stays from then on.
    pub keep: Duration,
}

/// Foretells when a function is called again.
pub trait KeepAlivePolicy: Debug + Send + Sync {
    /// Whether idle times are recorded at all.
    fn learns(&self) -> bool;

    /// The windows for a function with these idle times.
    fn window(&self, history: Option<&Histogram>) -> Window;
}

#[derive(Debug)]
struct Fixed {
    keep: Duration,
}

impl KeepAlivePolicy for Fixed {
    fn learns(&self) -> bool {
        false
    }

    fn window(&self, _: Option<&Histogram>) -> Window {
        Window { prewarm: Duration::ZERO, keep: self.keep }
    }
}

#[derive(Debug)]
struct HybridHistogram {
    fallback: Fixed,
    config: HistogramConfig,
}

impl KeepAlivePolicy for HybridHistogram {
    fn learns(&self) -> bool {
        true
    }

    fn window(&self, history: Option<&Histogram>) -> Window {
        let config = &self.config;
        let Some(history) = history else { return self.fallback.window(None) };
        if history.total() < config.min_samples
            || history.out_of_bounds() > config.max_out_of_bounds
            || history.cv() < config.min_cv
        {
            return self.fallback.window(None);
        }
        let bin = Duration::from_micros(bin_us(config));
        let times = |bins: usize| bin.saturating_mul(u32::try_from(bins).unwrap_or(u32::MAX));
        let margin = if config.margin.is_finite() { config.margin.clamp(0.0, 0.9) } else { 0.0 };
        // From the beginning of one bin to the end of the other, and a bit more on either side.
        let prewarm = times(history.quantile(config.head)).mul_f64(1.0 - margin);
        let until = times(history.quantile(config.tail) + 1).mul_f64(1.0 + margin);
        Window { prewarm, keep: until.saturating_sub(prewarm) }
    }
}

/// The policy of that name.
pub fn by_name(name: KeepAlive, config: &Config) -> Box<dyn KeepAlivePolicy> {
    let fixed = |s| Fixed { keep: Duration::try_from_secs_f64(s).unwrap_or(Duration::from_secs(600)) };
    match name {
        KeepAlive::Fixed => Box::new(fixed(config.fixed_s)),
        KeepAlive::HybridHistogram => Box::new(HybridHistogram {
            fallback: fixed(config.histogram.fallback_s),
            config: config.histogram.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(minutes: &[f64]) -> Window {
        let config = Config::default();
        let mut history = Histogram::new(&config.histogram);
        for minute in minutes {
            history.record(&config.histogram, Duration::from_secs_f64(minute * 60.0));
        }
        by_name(KeepAlive::HybridHistogram, &config).window(Some(&history))
    }

    const fn kept(s: u64) -> Window {
        Window { prewarm: Duration::ZERO, keep: Duration::from_secs(s) }
    }

    const FALLBACK: Window = kept(360);

    #[test]
    fn a_regular_call_is_awaited_and_a_frequent_one_kept() {
        let hourly = window(&[60.5; 20]);
        assert_eq!(hourly.prewarm, Duration::from_secs(54 * 60));
        assert_eq!(hourly.prewarm + hourly.keep, Duration::from_secs_f64(61.0 * 60.0 * 1.1));
        let frequent = window(&[0.5; 20]);
        assert_eq!(frequent, Window { prewarm: Duration::ZERO, keep: Duration::from_secs(66) });
    }

    #[test]
    fn without_knowledge_it_is_a_fixed_time() {
        assert_eq!(window(&[60.5; 9]), FALLBACK, "too few");
        assert_eq!(window(&[300.0; 20]), FALLBACK, "out of bounds");
        let flat: Vec<f64> = (0..240).map(f64::from).collect();
        assert_eq!(window(&flat), FALLBACK, "flat");
        assert_eq!(by_name(KeepAlive::HybridHistogram, &Config::default()).window(None), FALLBACK);
        // Few of such would be uneven by chance alone.
        let few: Vec<f64> = flat.into_iter().step_by(16).collect();
        assert_eq!(window(&few), FALLBACK, "few and scattered");
        assert_eq!(by_name(KeepAlive::Fixed, &Config::default()).window(None), kept(600));
    }
}
