//! Numbers that are given out in turn: what was given back last is taken last, since old
//! connections may still be tracked for an address or a port that somebody just had.
//!
//! Costs memory for what is or was in use alone, however many there are.

use std::collections::{BTreeMap, HashMap, HashSet};

/// The numbers below a size.
#[derive(Clone, Debug)]
pub struct Turns {
    size: u32,
    /// Where the first turn began, and how many it has passed.
    begin: u32,
    passed: u32,
    taken: HashSet<u32>,
    /// Those that wait for their next turn, who waits longest first.
    waiting: BTreeMap<u64, u32>,
    since: HashMap<u32, u64>,
    clock: u64,
}

impl Turns {
    pub fn new(size: u32) -> Self {
        Self {
            size,
            begin: 0,
            passed: 0,
            taken: HashSet::new(),
            waiting: BTreeMap::new(),
            since: HashMap::new(),
            clock: 0,
        }
    }

    pub fn size(&self) -> u32 {
        self.size
    }

    pub fn nothing_taken(&self) -> bool {
        self.taken.is_empty()
    }

    /// The next one whose turn it is; who is not usable at present is passed over until later.
    pub fn take(&mut self, usable: impl Fn(u32) -> bool) -> Option<u32> {
        while self.passed < self.size {
            // Both are below 2^32, and so is the rest.
            let number = ((u64::from(self.begin) + u64::from(self.passed)) % u64::from(self.size)) as u32;
            self.passed += 1;
            if self.taken.contains(&number) || self.since.contains_key(&number) {
                continue;
            }
            if usable(number) {
                self.taken.insert(number);
                return Some(number);
            }
            self.wait(number);
        }
        let number = self.waiting.values().copied().find(|number| usable(*number))?;
        self.take_this(number).then_some(number)
    }

    /// This very one, out of turn; `false` where it is taken, or is none.
    pub fn take_this(&mut self, number: u32) -> bool {
        if number >= self.size || !self.taken.insert(number) {
            return false;
        }
        if let Some(since) = self.since.remove(&number) {
            self.waiting.remove(&since);
        }
        true
    }

    /// One that was taken before all this began: the first turn begins behind the first of them.
    pub fn take_up(&mut self, number: u32) -> bool {
        if self.passed == 0 && self.taken.is_empty() && number < self.size {
            self.begin = (number + 1) % self.size;
        }
        self.take_this(number)
    }

    pub fn give_back(&mut self, number: u32) {
        if self.taken.remove(&number) {
            self.wait(number);
        }
    }

    fn wait(&mut self, number: u32) {
        self.clock += 1;
        self.waiting.insert(self.clock, number);
        self.since.insert(number, self.clock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const SIZE: u32 = 6;

    #[derive(Clone, Debug)]
    enum Act {
        Take,
        TakeBut(u32),
        TakeThis(u32),
        GiveBack(u32),
    }

    fn any_act() -> impl Strategy<Value = Act> {
        prop_oneof![
            Just(Act::Take),
            (0..SIZE).prop_map(Act::TakeBut),
            (0..SIZE + 1).prop_map(Act::TakeThis),
            (0..SIZE + 1).prop_map(Act::GiveBack),
        ]
    }

    /// The plainest model: two lines, of which the second begins where the first ends.
    struct Lines {
        first: VecDeque<u32>,
        then: VecDeque<u32>,
    }

    impl Lines {
        fn take(&mut self, but: Option<u32>) -> Option<u32> {
            while let Some(next) = self.first.pop_front() {
                if Some(next) != but {
                    return Some(next);
                }
                self.then.push_back(next);
            }
            let at = self.then.iter().position(|n| Some(*n) != but)?;
            self.then.remove(at)
        }

        fn take_this(&mut self, number: u32) -> bool {
            let before = self.len();
            self.first.retain(|n| *n != number);
            self.then.retain(|n| *n != number);
            self.len() < before
        }

        fn give_back(&mut self, number: u32) {
            if number < SIZE && !self.first.contains(&number) && !self.then.contains(&number) {
                self.then.push_back(number);
            }
        }

        fn len(&self) -> usize {
            self.first.len() + self.then.len()
        }
    }

    proptest! {
        #[test]
        fn whoever_waits_longest_is_next(
            up in prop::option::of(0..SIZE),
            acts in prop::collection::vec(any_act(), 0..100),
        ) {
            let mut turns = Turns::new(SIZE);
            let begin = up.map_or(0, |up| up + 1);
            let mut lines = Lines { first: (0..SIZE).map(|n| (begin + n) % SIZE).collect(), then: VecDeque::new() };
            if let Some(up) = up {
                prop_assert!(turns.take_up(up) && lines.take_this(up));
            }
            for act in acts {
                match act {
                    Act::Take => prop_assert_eq!(turns.take(|_| true), lines.take(None)),
                    Act::TakeBut(but) => prop_assert_eq!(turns.take(|n| n != but), lines.take(Some(but))),
                    Act::TakeThis(number) => prop_assert_eq!(turns.take_this(number), lines.take_this(number)),
                    Act::GiveBack(number) => {
                        turns.give_back(number);
                        lines.give_back(number);
                    }
                }
                prop_assert_eq!(turns.taken.len() + lines.len(), SIZE as usize);
            }
            prop_assert_eq!(turns.nothing_taken(), lines.len() == SIZE as usize);
        }
    }

    #[test]
    fn none_of_nothing_is_taken() {
        let mut turns = Turns::new(0);
        assert_eq!(turns.take(|_| true), None);
        assert!(!turns.take_this(0) && !turns.take_up(0));
    }
}
