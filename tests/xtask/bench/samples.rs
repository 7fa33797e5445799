//! Values of one kind, and what is between them: median, percentiles, extremes.

/// Values in ascending order. None of them is expected to be NaN; such a one would count as largest.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples {
    ascending: Vec<f64>,
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut ascending: Vec<f64> = values.into_iter().collect();
        ascending.sort_unstable_by(f64::total_cmp);
        Self { ascending }
    }
}

impl Samples {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ascending.len()
    }

    /// The smallest value.
    pub(crate) fn smallest(&self) -> Option<f64> {
        self.ascending.first().copied()
    }

    /// The largest value.
    pub(crate) fn largest(&self) -> Option<f64> {
        self.ascending.last().copied()
    }

    /// The value in the middle, or the mean of the two there.
    pub(crate) fn median(&self) -> Option<f64> {
        let upper = *self.ascending.get(self.len() / 2)?;
        if self.len() % 2 == 1 {
            return Some(upper);
        }
        let lower = *self.ascending.get((self.len() / 2).checked_sub(1)?)?;
        Some(f64::midpoint(lower, upper))
    }

    /// The smallest value that at least so many percent of all do not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> Option<f64> {
        let rank = (self.len() * percent).div_ceil(100).max(1);
        self.ascending.get(rank - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        values.iter().copied().collect()
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        let cases: [(&[f64], Option<f64>); 5] = [
            (&[], None),
            (&[3.0], Some(3.0)),
            (&[9.0, 1.0], Some(5.0)),
            (&[9.0, 1.0, 2.0], Some(2.0)),
            (&[4.0, 1.0, 3.0, 100.0], Some(3.5)),
        ];
        for (values, median) in cases {
            assert_eq!(samples(values).median(), median, "{values:?}");
        }
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred: Samples = (1..=100).rev().map(f64::from).collect();
        for percent in [1, 50, 75, 99, 100] {
            let expected = f64::from(u32::try_from(percent).unwrap());
            assert_eq!(hundred.percentile(percent), Some(expected));
        }
        assert_eq!(hundred.percentile(0), Some(1.0));
        assert_eq!(samples(&[5.0, 7.0]).percentile(50), Some(5.0));
        assert_eq!(samples(&[5.0, 7.0]).percentile(51), Some(7.0));
        assert_eq!(samples(&[]).percentile(50), None);
    }

    #[test]
    fn extremes() {
        let three = samples(&[2.0, 3.0, 1.0]);
        assert_eq!((three.smallest(), three.largest(), three.len()), (Some(1.0), Some(3.0), 3));
        assert_eq!(samples(&[]).smallest(), None);
    }
}
