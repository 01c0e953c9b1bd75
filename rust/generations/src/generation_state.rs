//! The state of all generations and which one boots: a pure function of builds, verdicts and users' requests. No I/O,
//! no clock.
//!
//! ```text
//!             built            a try: READY and health
//!             built            a try: READY and health
//!  recipe ───────────▶ Untried ──────────────────────▶ Good ──▶ current
//!                       │   ▲ aborted
//!                       ├───┘
//!                       └── boot or health failed, or three tries without a known end ──▶ Bad, with the reason
//! ```
//!
//! Rule: `current`, which boots, is 0 (the configured bundle) or a Good generation. So an unproven generation boots in
//! a try only. A try ends in a verdict, so no generation is tried for ever.

use dvn_types::{Kind, Report};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Tries that may end unobserved, because the daemon or the host went down, before a generation counts as bad.
pub const UNSEEN_TRIES: u32 = 3;

/// Generations kept besides the current one, the good one before it and the newest.
pub const KEPT: usize = 3;

/// All generations with their verdicts, and the one that boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GenerationState {
    /// The last number used. No number is used twice.
    newest: u32,
    /// The generation that boots.
    current: u32,
    /// Set when the user rolled back from this recipe's generation (or from none): keeps `current` until the recipe
    /// changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hold: Option<Hold>,
    generations: BTreeMap<u32, Generation>,
    /// The user requested a build of this recipe although its generation is bad.
    #[serde(skip)]
    again: Option<PathBuf>,
}

/// A type of its own, since "no recipe" can be held too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hold {
    recipe: Option<PathBuf>,
}

/// A guest system built from a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// The `.drv` it was built from.
    pub recipe: PathBuf,
    /// Its store path in the guest.
    pub output: String,
    /// Unix time in milliseconds of its arrival.
    pub built_unix_ms: u64,
    /// Its verdict.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// The verdict on a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It has not been seen to boot.
    Untried {
        /// Tries that began and whose end is unknown.
        tries: u32,
    },
    /// It booted and answered. Final: a later failure to boot has another cause.
    Good,
    /// It did not boot or did not answer.
    Bad {
        /// The reason, with the console's last lines.
        why: Report,
    },
}

/// The next step for a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Nothing,
    /// Build it.
    Build,
    /// Try this generation.
    Try(u32),
}

/// Why a user's request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no generation of that number.
    #[error("there is no generation {0}")]
    Unknown(u32),
    /// It has not been seen to work.
    #[error("generation {0} has not been seen to work, so there is no way back to it")]
    NotGood(u32),
    /// The configured bundle is current, and no generation is before it.
    #[error("the configured bundle, generation 0, is what boots: there is none before it")]
    NothingBefore,
    /// The configured bundle cannot be deleted.
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
            Refusal::InUse(_) => report.hint("switch to another one first: `darwin-vz-nix generations rollback`"),
            Refusal::NoRecipe => {
                report.hint("name a .drv: `recipe = \"/nix/store/….drv\"` in the configuration file, or --recipe")
            }
            Refusal::Floor => report,
        }
    }
}

impl GenerationState {
    /// The generation that boots, outside of a try.
    pub fn current(&self) -> u32 {
        self.current
    }

    /// Whether a rollback holds until the recipe changes.
    pub fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// All generations but 0, oldest first.
    pub fn generations(&self) -> impl DoubleEndedIterator<Item = (u32, &Generation)> {
        self.generations.iter().map(|(number, generation)| (*number, generation))
    }

    /// The newest generation of a recipe.
    pub fn of(&self, recipe: Option<&Path>) -> Option<(u32, &Generation)> {
        self.generations().rfind(|(_, generation)| Some(generation.recipe.as_path()) == recipe)
    }

    /// The number of the next generation.
    pub fn upcoming(&self) -> u32 {
        self.newest.saturating_add(1)
    }

    /// At the daemon's start: removes generations that are not `there` any more, and applies the configured recipe.
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

    /// The next step.
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

    /// Adds a generation.
    pub fn built(&mut self, recipe: PathBuf, output: String, built_unix_ms: u64) -> u32 {
        self.newest = self.upcoming();
        self.again = None;
        let verdict = Verdict::Untried { tries: 0 };
        self.generations.insert(self.newest, Generation { recipe, output, built_unix_ms, verdict });
        self.newest
    }

    /// Counts a try that begins. Write it to disk before the try, so that a try that crashes the host counts.
    pub fn trying(&mut self, number: u32) {
        if let Some(Verdict::Untried { tries }) = self.verdict(number) {
            *tries = tries.saturating_add(1);
        }
    }

    /// Records that a try was aborted from outside: no verdict.
    pub fn aborted(&mut self, number: u32) {
        if let Some(Verdict::Untried { tries }) = self.verdict(number) {
            *tries = tries.saturating_sub(1);
        }
    }

    /// Records that it booted and answered. It becomes current, unless the user chose another one meanwhile.
    pub fn good(&mut self, number: u32) {
        let Some(verdict) = self.verdict(number) else { return };
        *verdict = Verdict::Good;
        if self.hold.is_none() {
            self.current = number;
        }
    }

    /// Records that it did not boot or answer. Does not affect a good generation.
    pub fn bad(&mut self, number: u32, why: Report) {
        if let Some(verdict @ Verdict::Untried { .. }) = self.verdict(number) {
            *verdict = Verdict::Bad { why };
        }
    }

    /// Makes a good generation current, by default the one before, until the recipe changes.
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

    /// Requests a build and a try of the recipe although it failed before or was rolled back. A good generation of it
    /// becomes current again.
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

    /// Removes a generation.
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

    /// Removes all that need not be kept. Returns their numbers.
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
