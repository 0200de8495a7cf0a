#!/usr/bin/env python3
"""What the binaries are made of, against deny.toml: licences, sources, versions of one crate.

    .ci/supply.py               check, and docs/licences.md is as it would be written now
    .ci/supply.py --write       write docs/licences.md
    .ci/supply.py --texts FILE  every licence text of what the binaries are made of, to be shipped

The part of `cargo deny check licenses sources bans` that needs no cargo-deny, which takes longer to
build than this project. Where cargo-deny is installed it is asked too, with its database of
advisories.
"""
import argparse, collections, json, pathlib, re, shutil, subprocess, sys, tomllib

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences of the binaries

After this page you know under which terms a binary of `uq4ct` may be given on. The source is MIT or Apache-2.0, at
your choice. A binary also holds the crates it was built from, and their terms go with it.

Written by `.ci/supply.py --write` from `Cargo.lock` for x86-64 Linux with the default features; a check says when it is
out of date. `.ci/supply.py --texts FILE` collects the licence texts and notices of every crate: ship that file with a
binary.

## Crates whose source has to stay available

Under MPL-2.0 the files of these crates stay under it: whoever gets a binary must be told where their source is. It is
unchanged, on crates.io.

"""


def cargo(*args):
    return subprocess.run(["cargo", *args], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def built(target):
    """Packages that a binary or its build is made of, without those of tests."""
    found = json.loads(cargo("metadata", "--format-version", "1", "--locked", "--filter-platform", target))
    tree = cargo("tree", "--workspace", "--locked", "--target", target, "--edges", "normal,build", "--prefix", "none",
                 "--format", "{p}")
    wanted = {tuple(line.split(" ")[:2]) for line in tree.splitlines() if line}
    packages = [package for package in found["packages"] if (package["name"], "v" + package["version"]) in wanted]
    packages.sort(key=lambda package: (package["name"], package["version"]))
    return packages, set(found["workspace_members"])


def chosen(expression, allowed):
    """The licences of an SPDX expression that are used; None where it allows none of them."""
    words = re.findall(r"[()]|[^\s()/]+", expression.replace("/", " OR "))

    def either():
        found = both()
        while words and words[0] == "OR":
            words.pop(0)
            other = both()
            found = found if found is not None else other
        return found

    def both():
        found = single()
        while words and words[0] == "AND":
            words.pop(0)
            other = single()
            found = None if found is None or other is None else found | other
        return found

    def single():
        word = words.pop(0)
        if word == "(":
            found = either()
            words.pop(0)
            return found
        if words and words[0] == "WITH":
            words.pop(0)
            word = f"{word} WITH {words.pop(0)}"
        return {word} if word in allowed else None

    return either()


def judge(packages, members, deny):
    """Every way in which the packages are not as deny.toml has them."""
    wrong = []
    allowed = set(deny["licenses"]["allow"])
    exceptions = {entry["crate"]: set(entry["allow"]) for entry in deny["licenses"].get("exceptions", [])}
    registries = {f"registry+{url}" for url in deny["sources"]["allow-registry"]}
    used, excused = set(), set()
    for package in packages:
        name = f"{package['name']}@{package['version']}"
        if package["id"] not in members and package["source"] not in registries:
            wrong.append(f"{name} comes from {package['source']}: not a source of deny.toml")
        extra = exceptions.get(package["name"], set())
        licences = chosen(package["license"] or "none", allowed | extra)
        if licences is None:
            wrong.append(f"{name} is under {package['license']!r}: not allowed by deny.toml")
            continue
        used |= licences
        excused |= {package["name"]} if licences & extra else set()
    wrong += [f"deny.toml allows {name}, which nothing is under" for name in sorted(allowed - used)]
    needless = sorted(set(exceptions) - excused)
    wrong += [f"deny.toml makes an exception for {name}, which needs none" for name in needless]
    versions = collections.defaultdict(list)
    for package in packages:
        versions[package["name"]].append(package["version"])
    skipped = {entry["crate"]: entry.get("reason", "") for entry in deny["bans"]["skip"]}
    for name, found in versions.items():
        left = [version for version in found if f"{name}@{version}" not in skipped]
        if len(found) > 1 and len(left) > 1:
            beside = ", ".join(left)
            wrong.append(f"{name} is there as {beside}: update what asks for the old one, or say why in deny.toml")
    several = {f"{name}@{version}" for name, found in versions.items() if len(found) > 1 for version in found}
    wrong += [f"deny.toml skips {name}, which is not there twice" for name in sorted(set(skipped) - several)]
    wrong += [f"deny.toml skips {name} without a reason" for name, reason in sorted(skipped.items()) if not reason]
    return wrong


def page(packages, members, deny):
    allowed = set(deny["licenses"]["allow"])
    exceptions = {entry["crate"]: set(entry["allow"]) for entry in deny["licenses"].get("exceptions", [])}
    text, counts = HEAD, collections.Counter()
    for package in packages:
        licences = chosen(package["license"], allowed | exceptions.get(package["name"], set()))
        if package["id"] in members:
            continue
        counts.update(licences)
        if any(licence.startswith("MPL") for licence in licences):
            name = package["name"]
            text += f"- [{name}](https://crates.io/crates/{name}), {', '.join(sorted(licences))}\n"
    text += "\n## All others\n\nThey ask that their licence texts and notices are kept. Of several licences offered, "
    text += "one that\n`deny.toml` allows is counted.\n\n"
    return text + "".join(f"- {name}\n" for name in sorted(counts) if not name.startswith("MPL"))


def texts(packages, members):
    """The licence texts and notices in the sources of the packages, each text once."""
    holders = collections.defaultdict(list)
    for package in packages:
        if package["id"] in members:
            continue
        folder = pathlib.Path(package["manifest_path"]).parent
        named = re.compile(r"(?i)(un)?licen[sc]e|copying|notice")
        files = [path for path in folder.iterdir() if path.is_file() and named.match(path.name)]
        name = f"{package['name']} {package['version']} ({package['license']}, {package['repository'] or 'crates.io'})"
        if not files:
            authors = ", ".join(package["authors"]) or "its authors"
            holders[f"{package['license']}; its package holds no text. By {authors}."].append(name)
        for path in sorted(files):
            holders[path.read_text(errors="replace").strip()].append(name)
    parts = ["\n".join(sorted(set(names))) + "\n\n" + text for text, names in holders.items()]
    return ("\n\n" + "=" * 100 + "\n\n").join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--texts", metavar="FILE")
    args = parser.parse_args()
    deny = tomllib.loads((ROOT / "deny.toml").read_text())
    target, = deny["graph"]["targets"]
    packages, members = built(target)
    if args.texts:
        pathlib.Path(args.texts).write_text(texts(packages, members))
        return 0
    wrong = judge(packages, members, deny)
    if not wrong:
        now = page(packages, members, deny)
        if args.write:
            PAGE.write_text(now)
        elif not PAGE.is_file() or PAGE.read_text() != now:
            wrong.append("docs/licences.md is out of date: run .ci/supply.py --write")
    if shutil.which("cargo-deny"):
        if subprocess.run(["cargo", "deny", "--locked", "check"], cwd=ROOT).returncode:
            wrong.append("cargo deny has found something, see above")
    else:
        print("advisories: not checked, cargo-deny is not installed")
    print("\n".join(wrong) or f"{len(packages)} packages are as deny.toml has them")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
