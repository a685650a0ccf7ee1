//! Random operations on two volumes, compared with a model.

use super::*;

/// The expected content of a volume: names of files, and their content. Two names of a file share
/// it.
#[derive(Clone, Default)]
struct Model {
    names: BTreeMap<String, usize>,
    contents: BTreeMap<usize, Vec<u8>>,
}

/// An operation on one of the volumes "a" and "b".
#[derive(Clone, Copy, Debug)]
enum Op {
    Create(u8),
    Write(u8, u16, u16),
    Truncate(u8, u16),
    Link(u8, u8),
    Rename(u8, u8),
    Remove(u8),
    Recycle,
    /// Makes the other volume a copy of this one.
    Clone,
}

fn op() -> impl Strategy<Value = (bool, Op)> {
    let op = prop_oneof![
        4 => any::<u8>().prop_map(Op::Create),
        6 => any::<(u8, u16, u16)>().prop_map(|(n, at, len)| Op::Write(n, at, len % 9000)),
        2 => any::<(u8, u16)>().prop_map(|(n, size)| Op::Truncate(n, size)),
        2 => any::<(u8, u8)>().prop_map(|(n, m)| Op::Link(n, m)),
        3 => any::<(u8, u8)>().prop_map(|(n, m)| Op::Rename(n, m)),
        2 => any::<u8>().prop_map(Op::Remove),
        1 => Just(Op::Recycle),
        1 => Just(Op::Clone),
    ];
    (any::<bool>(), op)
}

fn called(n: u8) -> String {
    format!("n{}", n % 5)
}

impl Model {
    fn apply(&mut self, op: Op) {
        let content = |model: &Self, n| model.names.get(&called(n)).copied();
        match op {
            Op::Create(n) if content(self, n).is_none() => {
                let file = self.contents.keys().last().map_or(0, |last| last + 1);
                self.contents.insert(file, Vec::new());
                self.names.insert(called(n), file);
            }
            Op::Write(n, at, len) => {
                let Some(file) = content(self, n) else { return };
                let (content, at) = (self.contents.get_mut(&file).unwrap(), usize::from(at));
                content.resize(content.len().max(at + usize::from(len)), 0);
                content[at..at + usize::from(len)].fill(7);
            }
            Op::Truncate(n, size) => {
                let Some(file) = content(self, n) else { return };
                self.contents.get_mut(&file).unwrap().resize(size.into(), 0);
            }
            Op::Link(n, m) if content(self, m).is_none() => {
                content(self, n).map(|file| self.names.insert(called(m), file));
            }
            Op::Rename(n, m) if content(self, n) != content(self, m) => {
                let file = self.names.remove(&called(n));
                file.map(|file| self.names.insert(called(m), file));
            }
            Op::Remove(n) => drop(self.names.remove(&called(n))),
            Op::Recycle => *self = Self::default(),
            Op::Create(_) | Op::Link(..) | Op::Rename(..) | Op::Clone => {}
        }
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.names.iter().map(|(name, file)| (name.clone(), self.contents[file].clone())).collect()
    }
}

impl TestRun {
    /// Applies an operation of a client or an administrator. An impossible one is refused.
    fn apply(&self, of: &str, other: &str, op: Op) {
        let path = format!("/{of}").into_bytes();
        let export = self.exports.load().locate(&path).map(|(export, _)| export.id).unwrap();
        let files = Files::of(&self.fs, export);
        let root = files.root();
        let _ = match op {
            Op::Create(n) => files.create(&root, &called(n)).map(drop),
            Op::Write(n, at, len) => files
                .find(&root, &called(n))
                .and_then(|file| files.write(&file, at.into(), len.into()).map(drop)),
            Op::Truncate(n, size) => {
                files.find(&root, &called(n)).and_then(|file| files.truncate(&file, size.into()))
            }
            Op::Link(n, m) => {
                files.find(&root, &called(n)).and_then(|file| files.link(&file, &root, &called(m)))
            }
            Op::Rename(n, m) => files.rename((&root, &called(n)), (&root, &called(m))),
            Op::Remove(n) => files.remove(&root, &called(n)),
            Op::Recycle => {
                self.volumes.reclaim(&name(of), Some(OnDelete::Recycle)).unwrap();
                Ok(())
            }
            Op::Clone => {
                self.volumes.reclaim(&name(other), Some(OnDelete::Delete)).unwrap();
                self.volumes.create(spec(other), VolumeOrigin::Clone(name(of))).unwrap();
                self.settled(other);
                Ok(())
            }
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn volumes_hold_what_was_done_to_them_and_use_what_du_finds(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let place = VolumesDirectory::new();
        let run = place.open();
        let mut models = [Model::default(), Model::default()];
        run.create("a").unwrap();
        run.create("b").unwrap();
        for (n, (second, op)) in ops.iter().enumerate() {
            let (one, other) = if *second { (1, 0) } else { (0, 1) };
            run.apply(["a", "b"][one], ["a", "b"][other], *op);
            models[one].apply(*op);
            if let Op::Clone = op {
                models[other] = models[one].clone();
            }
            if n % 10 != 9 && n + 1 != ops.len() {
                continue;
            }
            run.fs.flush_all();
            for (of, model) in ["a", "b"].into_iter().zip(&models) {
                let found: BTreeMap<_, _> = fs::read_dir(place.path(of)).unwrap()
                    .map(|entry| entry.unwrap())
                    .map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap()))
                    .collect();
                prop_assert!(found == model.files(), "{of} after {op:?}");
                let status = run.settled(of);
                let used = Usage { bytes: status.used, inodes: status.inodes_used };
                prop_assert_eq!(used, du(&place.path(of)));
            }
        }
    }
}
