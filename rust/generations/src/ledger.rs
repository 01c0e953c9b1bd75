//! Which generation boots: a pure function of what was built, how it fared, and what the user asked for. No I/O, no clock.
//!
//! ```text
//!             built            a try: READY and health
//!  recipe ───────────▶ Untried ──────────────────────▶ Good ──▶ current
//!                       │   ▲ cut short
//!                       ├───┘
//!                       └── boot or health failed, or three tries whose end nobody saw ──▶ Bad, with the reason
//! ```
//!
//! The rule that holds here: `current`, which boots, is 0 (the configured bundle) or a Good generation. So what has never
//! been seen to work boots in a try only, and a try ends in a verdict: no generation is tried for ever.

use dvn_types::{Kind, Report};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Tries whose end nobody saw, because the daemon or the host went down, before a generation counts as bad.
pub const UNSEEN_TRIES: u32 = 3;

/// Generations kept beside the current one, the good one before it and the newest.
pub const KEPT: usize = 3;

/// What was built and how it fared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ledger {
    /// The last number that was given away; none is used twice.
    newest: u32,
    /// What boots.
    current: u32,
    /// The user went back from what this recipe (or none) would have: stay there until the recipe changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<Hold>,
    generations: BTreeMap<u32, Generation>,
    /// The user wants this recipe built although its generation is bad.
    #[serde(skip)]
    again: Option<PathBuf>,
}

/// See [`Ledger`]; a value of its own since "no recipe" can be held, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hold {
    recipe: Option<PathBuf>,
}

/// A guest system that was built from a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// The `.drv` it was built from.
    pub recipe: PathBuf,
    /// The store path that it was in the guest.
    pub output: String,
    /// Unix time in milliseconds at which it was there.
    pub built_unix_ms: u64,
    /// How it fared.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// How a generation fared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// Nobody has seen it boot yet.
    Untried {
        /// Tries that were begun and whose end nobody saw.
        tries: u32,
    },
    /// It came up and answered. That stays so, whatever a later boot does: then something else has changed.
    Good,
    /// It did not.
    Bad {
        /// Why, with the console's last lines.
        why: Report,
    },
}

/// What is to be done for a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// Build it.
    Build,
    /// Try this generation.
    Try(u32),
}

/// Why the ledger refuses what a user asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is none of that number.
    #[error("there is no generation {0}")]
    Unknown(u32),
    /// It has not been seen to work.
    #[error("generation {0} has not been seen to work, so there is no way back to it")]
    NotGood(u32),
    /// The configured bundle boots already.
    #[error("the configured bundle, generation 0, is what boots: there is none before it")]
    NothingBefore,
    /// The floor.
    #[error("generation 0 is the configured bundle and cannot be deleted")]
    Floor,
    /// It boots next, or runs.
    #[error("generation {0} is in use")]
    InUse(u32),
    /// Nothing to build.
    #[error("no recipe is configured, so there is nothing to build")]
    NoRecipe,
}

impl From<Refusal> for Report {
    fn from(refusal: Refusal) -> Report {
        let kind = match refusal {
            Refusal::Unknown(_) => Kind::NotFound,
            Refusal::InUse(_) => Kind::Busy,
            Refusal::NoRecipe => Kind::Config,
            Refusal::NotGood(_) | Refusal::NothingBefore | Refusal::Floor => Kind::Bundle,
        };
        let report = Report::new(kind, refusal.to_string());
        match refusal {
            Refusal::Unknown(_) | Refusal::NothingBefore => report.hint("`darwin-vz-nix generations` shows them"),
            Refusal::NotGood(_) => report.hint("`darwin-vz-nix generations build` builds and tries the recipe again"),
            Refusal::InUse(_) => report.hint("go to another one first: `darwin-vz-nix generations rollback`"),
            Refusal::NoRecipe => {
                report.hint("name a .drv: `recipe = \"/nix/store/….drv\"` in the configuration file, or --recipe")
            }
            Refusal::Floor => report,
        }
    }
}

impl Ledger {
    /// What boots, outside of a try.
    pub fn current(&self) -> u32 {
        self.current
    }

    /// The user went back, and there it stays until the recipe changes.
    pub fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// All but 0, oldest first.
    pub fn generations(&self) -> impl DoubleEndedIterator<Item = (u32, &Generation)> {
        self.generations.iter().map(|(number, generation)| (*number, generation))
    }

    /// The newest one of a recipe.
    pub fn of(&self, recipe: Option<&Path>) -> Option<(u32, &Generation)> {
        self.generations().rfind(|(_, generation)| Some(generation.recipe.as_path()) == recipe)
    }

    /// The number that the next generation gets.
    pub fn upcoming(&self) -> u32 {
        self.newest.saturating_add(1)
    }

    /// At the daemon's start: forgets what is not `there` any more, and turns to what the configured recipe has.
    pub fn follow(&mut self, recipe: Option<&Path>, there: &BTreeSet<u32>) {
        self.generations.retain(|number, _| there.contains(number));
        for generation in self.generations.values_mut() {
            if matches!(generation.verdict, Verdict::Untried { tries } if tries >= UNSEEN_TRIES) {
                let why = format!("the daemon or the host ended {UNSEEN_TRIES} times while this generation was tried");
                generation.verdict = Verdict::Bad { why: Report::new(Kind::Boot, why) };
            }
        }
        if self.hold.as_ref().is_some_and(|hold| hold.recipe.as_deref() != recipe) {
            self.hold = None;
        }
        if self.hold.is_none() {
            self.current = match (recipe, self.of(recipe)) {
                (None, _) => 0,
                (Some(_), Some((number, Generation { verdict: Verdict::Good, .. }))) => number,
                (Some(_), _) => self.current,
            };
        }
        if !self.is_good(self.current) {
            self.current = 0;
        }
    }

    /// What is to be done.
    pub fn next(&self, recipe: Option<&Path>) -> Next {
        let Some(wanted) = recipe.filter(|_| self.hold.is_none()) else { return Next::Nothing };
        match self.of(recipe) {
            None => Next::Build,
            Some((number, Generation { verdict: Verdict::Untried { .. }, .. })) => Next::Try(number),
            Some((_, Generation { verdict: Verdict::Bad { .. }, .. })) if self.again.as_deref() == Some(wanted) => {
                Next::Build
            }
            Some(_) => Next::Nothing,
        }
    }

    /// A generation is there.
    pub fn built(&mut self, recipe: PathBuf, output: String, built_unix_ms: u64) -> u32 {
        self.newest = self.upcoming();
        self.again = None;
        let verdict = Verdict::Untried { tries: 0 };
        self.generations.insert(self.newest, Generation { recipe, output, built_unix_ms, verdict });
        self.newest
    }

    /// A try begins. To be kept before it does, so that one which takes the host down is counted.
    pub fn trying(&mut self, number: u32) {
        if let Some(Verdict::Untried { tries }) = self.verdict(number) {
            *tries = tries.saturating_add(1);
        }
    }

    /// A try was ended from outside, and says nothing.
    pub fn cut_short(&mut self, number: u32) {
        if let Some(Verdict::Untried { tries }) = self.verdict(number) {
            *tries = tries.saturating_sub(1);
        }
    }

    /// It came up and answered: from now on it boots, unless the user has gone elsewhere meanwhile.
    pub fn good(&mut self, number: u32) {
        let Some(verdict) = self.verdict(number) else { return };
        *verdict = Verdict::Good;
        if self.hold.is_none() {
            self.current = number;
        }
    }

    /// It did not. What was good once is not made bad by that.
    pub fn bad(&mut self, number: u32, why: Report) {
        if let Some(verdict @ Verdict::Untried { .. }) = self.verdict(number) {
            *verdict = Verdict::Bad { why };
        }
    }

    /// Goes to a generation that was good, by default the one before, and stays there until the recipe changes.
    pub fn roll_back(&mut self, to: Option<u32>, recipe: Option<&Path>) -> Result<u32, Refusal> {
        let to = match to {
            Some(number) if number != 0 && !self.generations.contains_key(&number) => {
                return Err(Refusal::Unknown(number));
            }
            Some(number) if !self.is_good(number) => return Err(Refusal::NotGood(number)),
            Some(number) => number,
            None if self.current == 0 => return Err(Refusal::NothingBefore),
            None => self.good_before(self.current),
        };
        self.current = to;
        let is_the_recipes_own = self.of(recipe).is_some_and(|(number, _)| number == to);
        self.hold = (!is_the_recipes_own).then(|| Hold { recipe: recipe.map(Path::to_owned) });
        Ok(to)
    }

    /// Has the recipe built and tried although it was given up or gone back from. A good generation of it boots again.
    pub fn build_again(&mut self, recipe: Option<&Path>) -> Result<(), Refusal> {
        let wanted = recipe.ok_or(Refusal::NoRecipe)?.to_owned();
        self.hold = None;
        match self.of(recipe) {
            Some((number, Generation { verdict: Verdict::Good, .. })) => self.current = number,
            Some((_, Generation { verdict: Verdict::Bad { .. }, .. })) => self.again = Some(wanted),
            Some((_, Generation { verdict: Verdict::Untried { .. }, .. })) | None => {}
        }
        Ok(())
    }

    /// Forgets one.
    pub fn delete(&mut self, number: u32, in_use: &[u32]) -> Result<(), Refusal> {
        match number {
            0 => Err(Refusal::Floor),
            _ if !self.generations.contains_key(&number) => Err(Refusal::Unknown(number)),
            _ if number == self.current || in_use.contains(&number) => Err(Refusal::InUse(number)),
            _ => {
                self.generations.remove(&number);
                Ok(())
            }
        }
    }

    /// Forgets all that need not be kept, and says which.
    pub fn prune(&mut self, in_use: &[u32]) -> Vec<u32> {
        let mut keep: BTreeSet<u32> = in_use.iter().copied().collect();
        keep.extend([self.current, self.good_before(self.current), self.newest]);
        let others: Vec<u32> = self.generations.keys().rev().copied().filter(|number| !keep.contains(number)).collect();
        let dropped = others.get(KEPT..).unwrap_or_default().to_vec();
        self.generations.retain(|number, _| !dropped.contains(number));
        dropped
    }

    fn good_before(&self, number: u32) -> u32 {
        let mut before = self.generations.range(..number).rev();
        before.find(|(_, generation)| generation.verdict == Verdict::Good).map_or(0, |(number, _)| *number)
    }

    fn is_good(&self, number: u32) -> bool {
        number == 0 || self.generations.get(&number).is_some_and(|generation| generation.verdict == Verdict::Good)
    }

    fn verdict(&mut self, number: u32) -> Option<&mut Verdict> {
        self.generations.get_mut(&number).map(|generation| &mut generation.verdict)
    }
}

#[cfg(test)]
mod tests;
