//! What was asked for last, of which a few are kept.

/// Items that are kept by default. Calls: training forward and backward with three sets of buffers, evaluation, and one to
/// spare.
pub(super) const KEPT: usize = 8;

/// The last few items, by when they were asked for: the one that was longest ago makes room for a new one.
#[derive(Debug)]
pub(super) struct Recent<T> {
    items: Vec<T>,
    most: usize,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Recent { items: Vec::new(), most: KEPT }
    }
}

impl<T> Recent<T> {
    /// The one that is wanted, if it is kept.
    pub fn find(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<&T> {
        let at = self.items.iter().position(is_wanted)?;
        self.items[at..].rotate_left(1);
        self.items.last()
    }

    /// Takes out one that is wanted, of several the last that was kept.
    pub fn take(&mut self, is_wanted: impl Fn(&T) -> bool) -> Option<T> {
        let at = self.items.iter().rposition(is_wanted)?;
        Some(self.items.remove(at))
    }

    pub fn keep(&mut self, item: T) {
        self.items.push(item);
        self.keep_only(self.most);
    }

    /// No more than so many, from now on.
    pub fn keep_only(&mut self, most: usize) {
        self.most = most;
        self.items.drain(..self.items.len().saturating_sub(most));
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

    #[test]
    fn so_many_are_kept() {
        let mut recent = Recent::default();
        (0..KEPT).for_each(|i| recent.keep(i));
        recent.keep_only(2);
        let kept =
            |recent: &mut Recent<usize>| (0..20).filter(|&n| recent.find(|&i| i == n).is_some()).collect::<Vec<_>>();
        assert_eq!(kept(&mut recent), [KEPT - 2, KEPT - 1]);
        recent.keep_only(0);
        recent.keep(9);
        assert_eq!(kept(&mut recent), []);
        recent.keep_only(12);
        (0..13).for_each(|i| recent.keep(i));
        assert_eq!(kept(&mut recent), (1..13).collect::<Vec<_>>());
    }
}
