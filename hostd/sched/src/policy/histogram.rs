//! Idle times of a function: between the end of its last call and the next.

use std::time::Duration;

use crate::config::HistogramConfig;
use crate::ids::micros;

/// Counts per bin, of late ones more than of old ones: when a bin is full, all are halved.
#[derive(Debug, Clone)]
pub struct Histogram {
    bins: Box<[u16]>,
    out_of_bounds: u32,
    total: u32,
}

impl Histogram {
    /// One without idle times, of at least one bin and at most 65,536.
    pub fn new(config: &HistogramConfig) -> Self {
        let bins = config.bins.clamp(1, 1 << 16) as usize;
        Self { bins: vec![0; bins].into_boxed_slice(), out_of_bounds: 0, total: 0 }
    }

    /// Another idle time.
    pub fn record(&mut self, config: &HistogramConfig, idle: Duration) {
        let at = usize::try_from(micros(idle) / bin_us(config)).unwrap_or(usize::MAX);
        let full = self.bins.get(at).is_some_and(|bin| *bin == u16::MAX);
        if full || self.out_of_bounds == u32::from(u16::MAX) {
            self.bins.iter_mut().for_each(|bin| *bin /= 2);
            self.out_of_bounds /= 2;
            self.total = self.bins.iter().map(|bin| u32::from(*bin)).sum::<u32>() + self.out_of_bounds;
        }
        match self.bins.get_mut(at) {
            Some(bin) => *bin += 1,
            None => self.out_of_bounds += 1,
        }
        self.total += 1;
    }

    /// Idle times known, weighed.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// The part of them that is beyond the last bin; 0 if there are none.
    pub fn out_of_bounds(&self) -> f64 {
        f64::from(self.out_of_bounds) / f64::from(self.total.max(1))
    }

    /// Standard deviation of the bins' counts by their mean, without what chance alone makes of it: large if few bins
    /// have it all, 0 if all have about the same. Few idle times are never evenly spread.
    pub fn cv(&self) -> f64 {
        let within = f64::from(self.total - self.out_of_bounds);
        if within <= 0.0 {
            return 0.0;
        }
        // At most 65,536 of them.
        #[expect(clippy::cast_precision_loss)]
        let bins = self.bins.len() as f64;
        let mean = within / bins;
        let variance = self.bins.iter().map(|bin| (f64::from(*bin) - mean).powi(2)).sum::<f64>() / bins;
        // Counts of what is spread evenly vary too, by their mean.
        (variance - mean).max(0.0).sqrt() / mean
    }

    /// The bin in which the idle time lies that `part` of those within bounds do not exceed.
    pub fn quantile(&self, part: f64) -> usize {
        let wanted = f64::from(self.total - self.out_of_bounds) * part.clamp(0.0, 1.0);
        let mut sum = 0.0;
        for (at, bin) in self.bins.iter().enumerate() {
            sum += f64::from(*bin);
            if *bin > 0 && sum >= wanted {
                return at;
            }
        }
        self.bins.len() - 1
    }
}

/// Width of a bin in microseconds: at least one, at most a day.
pub(super) fn bin_us(config: &HistogramConfig) -> u64 {
    micros(Duration::try_from_secs_f64(config.bin_s).unwrap_or(Duration::from_secs(60)))
        .clamp(1, 86_400_000_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn histogram(minutes: &[f64]) -> Histogram {
        let config = HistogramConfig::default();
        let mut histogram = Histogram::new(&config);
        minutes.iter().for_each(|minute| histogram.record(&config, Duration::from_secs_f64(minute * 60.0)));
        histogram
    }

    #[test]
    fn one_peak_is_uneven_and_all_the_same_is_not() {
        let peak = histogram(&[5.5; 50]);
        assert_eq!((peak.quantile(0.05), peak.quantile(0.99), peak.total()), (5, 5, 50));
        assert!(peak.cv() > 10.0);
        let flat: Vec<f64> = (0..240).map(f64::from).collect();
        assert!(histogram(&flat).cv() < 1e-9);
        let far = histogram(&[500.0, 1.0]);
        assert!((far.out_of_bounds() - 0.5).abs() < 1e-9);
    }

    #[test]
    fn a_full_bin_halves_all() {
        let mut config = HistogramConfig { bins: 2, ..HistogramConfig::default() };
        config.bin_s = f64::NAN; // taken for a minute
        let mut histogram = Histogram::new(&config);
        for _ in 0..200_000 {
            histogram.record(&config, Duration::ZERO);
            histogram.record(&config, Duration::from_secs(7200));
        }
        assert!(histogram.total() < 140_000);
        assert!((histogram.out_of_bounds() - 0.5).abs() < 0.01);
    }

    proptest! {
        // Against the sorted list.
        #[test]
        fn quantiles_are_those_of_the_list(mut bins in prop::collection::vec(0u32..240, 1..200), part in 0.0f64..1.0) {
            let minutes: Vec<f64> = bins.iter().map(|bin| f64::from(*bin) + 0.5).collect();
            bins.sort_unstable();
            let wanted = part * f64::from(u32::try_from(bins.len()).unwrap());
            let at = (1u32..).position(|count| f64::from(count) >= wanted).unwrap();
            prop_assert_eq!(histogram(&minutes).quantile(part), bins[at] as usize);
        }
    }
}
