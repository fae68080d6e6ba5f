//! The groups of the proposed rework: who reaches whom.

use super::{Above, Kind, World};

impl World<'_> {
    /// The group to join, and whether all below the group's members belongs to it from now on.
    pub(super) fn rework(&self, function: usize) -> (Option<usize>, bool) {
        if let Some(issuer) = self.all[function].issuer {
            return (self.of[issuer], false);
        }
        let place = self.all[function].physical.unwrap_or(function);
        let above = self.way_up(place).into_iter().find_map(|bridge| self.of[bridge]);
        if let Some(group) = above
            && self.spreads[group]
        {
            return (above, false);
        }
        match (self.bus(place), above) {
            (Bus::OpenToBridge, Some(group)) => (Some(group), true),
            (Bus::Open, _) => {
                let here = self.on_bus(self.all[function].segment, self.all[function].bus);
                (here.into_iter().find_map(|other| self.of[other]), true)
            }
            _ => self.device(function),
        }
    }

    fn bus(&self, place: usize) -> Bus {
        let (segment, number) = (self.all[place].segment, self.all[place].bus);
        let Above::Bridge(bridge) = self.above(segment, number) else { return Bus::Closed };
        let it = &self.all[bridge];
        let conventional = if it.memory { Bus::OpenToBridge } else { Bus::Open };
        match it.kind {
            None if it.disguised => conventional,
            Some(Kind::ToPci) => conventional,
            Some(Kind::Root) if it.acs.is_some() && !self.isolates(bridge) => Bus::OpenToBridge,
            Some(Kind::Root | Kind::Downstream) => Bus::Closed,
            Some(Kind::Upstream) => {
                for port in self.on_bus(segment, number) {
                    let it = &self.all[port];
                    if it.kind != Some(Kind::Downstream) || !it.aliases.is_empty() {
                        return Bus::OpenToBridge;
                    }
                    if !self.isolates(port) {
                        return if it.acs.is_some() { Bus::Open } else { Bus::OpenToBridge };
                    }
                }
                Bus::Closed
            }
            _ => Bus::OpenToBridge,
        }
    }

    fn device(&self, function: usize) -> (Option<usize>, bool) {
        let mut set = vec![function];
        let here = self.on_bus(self.all[function].segment, self.all[function].bus);
        while let Some(more) = here
            .iter()
            .find(|it| !set.contains(it) && set.iter().any(|member| self.reach(*member, **it)))
        {
            set.push(*more);
        }
        let group = here
            .into_iter()
            .filter(|it| *it != function && set.contains(it))
            .find_map(|it| self.of[it]);
        (group, set.len() > 1)
    }

    fn reach(&self, a: usize, b: usize) -> bool {
        if self.share_ids(a, b) {
            return true;
        }
        let (fa, fb) = (&self.all[a], &self.all[b]);
        if !self.same_device(a, b) || fa.physical.is_some() || fb.physical.is_some() {
            return false;
        }
        let open = |it: usize| self.all[it].acs.is_some() && !self.isolates(it);
        fa.multifunction != fb.multifunction || fa.multifunction && (open(a) || open(b))
    }
}

enum Bus {
    Closed,
    Open,
    OpenToBridge,
}
