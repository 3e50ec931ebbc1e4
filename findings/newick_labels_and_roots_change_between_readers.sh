#!/bin/sh
# The guess: Newick is Newick: a reader returns the names that ape wrote, and says whether the tree has a root.
# Seen: for the text that ape 5.7 writes of a tip "it's", (it's:1,Homo_sapiens:2);
#   Biopython 1.88 returns the tip 's', without a word; treeswift 1.1.51 raises; DendroPy 5.1.3 returns "it's".
#   scikit-bio 0.7.4 raises. Of the quoted 'it''s' treeswift returns 'its'; scikit-bio writes it''s without quotes around.
#   Homo_sapiens is 'Homo sapiens' for DendroPy and scikit-bio, 'Homo_sapiens' for treeswift, Biopython (and ape).
#   [&R] and [&U], which say whether the base is a root: DendroPy reads both, treeswift and Biopython take a tree
#   without a mark and one with [&U] alike as unrooted, and Biopython one with [&R], too.
# Why it matters: K of a tree is matched to the data by these names, and its diagonal is measured from the root.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" 2>/dev/null || uv venv -q --seed "$folder/venv"
"$folder/venv/bin/python" -m pip install -q dendropy==5.1.3 treeswift==1.1.51 biopython==1.88 scikit-bio==0.7.4 2>/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import warnings
from io import StringIO

import Bio
import dendropy
import skbio
import treeswift
from Bio import Phylo

warnings.simplefilter("ignore")
print(f"dendropy {dendropy.__version__}, treeswift 1.1.51, Biopython {Bio.__version__}, scikit-bio {skbio.__version__}")

READERS = {
    "dendropy": lambda text: [taxon.label for taxon in dendropy.Tree.get(data=text, schema="newick").taxon_namespace],
    "treeswift": lambda text: sorted(leaf.label for leaf in treeswift.read_tree_newick(text).traverse_leaves()),
    "Biopython": lambda text: [tip.name for tip in Phylo.read(StringIO(text), "newick").get_terminals()],
    "scikit-bio": lambda text: [tip.name for tip in skbio.TreeNode.read(StringIO(text)).tips()],
}


def outcome(function, text):
    try:
        return function(text)
    except Exception as error:
        return type(error).__name__


def names(text):
    return {name: outcome(reader, text) for name, reader in READERS.items()}


bare, quoted = names("(it's:1,Homo_sapiens:2);"), names("('it''s':1,Homo_sapiens:2);")
for text, found in (("it's", bare), ("'it''s'", quoted)):
    for name, labels in found.items():
        print(f"{text:9} {name:11} {labels}")
written = str(skbio.TreeNode.read(StringIO("('it''s':1,B:2);"))).strip()
again = outcome(READERS["scikit-bio"], written)
print("scikit-bio writes", written, "and reads it as", again)
rooted = {
    mark: (
        dendropy.Tree.get(data=mark + "((A:1,B:2):2,(C:3,D:4):3);", schema="newick").is_rooted,
        treeswift.read_tree_newick(mark + "((A:1,B:2):2,(C:3,D:4):3);").is_rooted,
        Phylo.read(StringIO(mark + "((A:1,B:2):2,(C:3,D:4):3);"), "newick").rooted,
    )
    for mark in ("", "[&R] ", "[&U] ")
}
print("is it rooted? (dendropy, treeswift, Biopython)", rooted)

assert bare["dendropy"] == ["it's", "Homo sapiens"]
assert bare["Biopython"] == ["s", "Homo_sapiens"]
assert bare["treeswift"] == "RuntimeError"
assert quoted["treeswift"] == ["Homo_sapiens", "its"]
assert quoted["Biopython"] == ["it's", "Homo_sapiens"]
assert quoted["scikit-bio"] == ["it's", "Homo sapiens"]
assert bare["scikit-bio"] == "NewickFormatError"
assert (written, again) == ("(it''s:1.0,B:2.0);", ["it's", "B"])
assert rooted == {"": (None, False, False), "[&R] ": (True, True, False), "[&U] ": (False, False, False)}
PYTHON
