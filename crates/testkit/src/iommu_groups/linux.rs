//! The groups that Linux makes.

use super::World;

impl World<'_> {
    pub(super) fn linux(&self, function: usize) -> Option<usize> {
        let mut at = self.all[function].issuer.unwrap_or(function);
        if self.of[at].is_some() {
            return self.of[at];
        }
        for bridge in self.way_up(at) {
            if self.takes_requests(bridge) {
                at = bridge;
                if self.of[at].is_some() {
                    return self.of[at];
                }
            }
        }
        for bridge in self.way_up(at) {
            if self.way_isolates(bridge) {
                break;
            }
            at = bridge;
            if self.of[at].is_some() {
                return self.of[at];
            }
        }
        let mut seen = Vec::new();
        self.by_alias(at, &mut seen).or_else(|| self.by_device(at, &mut seen))
    }

    fn by_alias(&self, at: usize, seen: &mut Vec<usize>) -> Option<usize> {
        if seen.contains(&at) {
            return None;
        }
        seen.push(at);
        if self.of[at].is_some() {
            return self.of[at];
        }
        for other in self.on_bus(self.all[at].segment, self.all[at].bus) {
            if self.share_ids(at, other) {
                let found = self.by_alias(other, seen).or_else(|| self.by_device(other, seen));
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }

    fn by_device(&self, at: usize, seen: &mut Vec<usize>) -> Option<usize> {
        if !self.all[at].multifunction || self.isolates(at) {
            return None;
        }
        for other in self.on_bus(self.all[at].segment, self.all[at].bus) {
            if self.same_device(at, other) && !self.isolates(other) {
                let found = self.by_alias(other, seen);
                if found.is_some() {
                    return found;
                }
            }
        }
        None
    }
}
