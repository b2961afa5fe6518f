//! What was asked for last, of which a few are kept.

/// Calls that are kept: training forward and backward with three sets of buffers, evaluation, and one to spare.
const KEPT: usize = 8;

/// The last few items, by when they were asked for: the one that was longest ago makes room for a new one.
#[derive(Debug)]
pub(super) struct Recent<T>(Vec<T>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Recent(Vec::new())
    }
}

impl<T> Recent<T> {
    /// The one that is wanted, if it is kept.
    pub fn find(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<&T> {
        let at = self.0.iter().position(is_wanted)?;
        self.0[at..].rotate_left(1);
        self.0.last()
    }

    pub fn keep(&mut self, item: T) {
        if self.0.len() == KEPT {
            self.0.remove(0);
        }
        self.0.push(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_longest_ago_goes_first() {
        let mut recent = Recent::default();
        (0..KEPT).for_each(|i| recent.keep(i));
        assert_eq!(recent.find(|&i| i == 0), Some(&0));
        recent.keep(KEPT);
        assert_eq!(recent.find(|&i| i == 1), None);
        assert!([0, 2, KEPT].into_iter().all(|wanted| recent.find(|&i| i == wanted).is_some()));
    }
}
