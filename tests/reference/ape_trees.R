# Trees by ape (Debian r-cran-ape): Newick and NEXUS text as it writes them, and covariances of tips and of all nodes.
# usage: Rscript ape_trees.R OUTDIR; writes ape_trees.json
suppressMessages({library(ape); library(jsonlite)})
out <- commandArgs(TRUE)[1]
case <- function(name, tree, root = NULL) {
  newick <- write.tree(tree, digits = 15)
  file <- tempfile(); write.nexus(tree, file = file); nexus <- paste(readLines(file), collapse = "\n")
  nexus <- sub("\\[R-package APE[^]]*\\]", "[written by ape]", nexus)
  rooted <- if (is.null(root)) tree else root(tree, root, resolve.root = TRUE)
  if (!is.null(root)) {  # ape puts the root at the node: the branch to the outgroup is halved here, as an outgroup root is
    n <- Ntip(rooted) + 1L; two <- which(rooted$edge[, 1] == n)
    rooted$edge.length[two] <- sum(rooted$edge.length[two]) / 2
  }
  depth <- node.depth.edgelength(rooted)
  mrca_all <- mrca(rooted, full = TRUE)
  all <- matrix(depth[mrca_all], nrow(mrca_all))
  keep <- setdiff(seq_along(depth), Ntip(rooted) + 1L)
  vcv <- vcv(rooted)[tree$tip.label, tree$tip.label]
  list(name = unbox(name), newick = unbox(newick), nexus = unbox(nexus), root = root, tips = tree$tip.label,
       vcv = unname(vcv), heights = sort(depth[keep]),
       logdet = unbox(as.numeric(determinant(all[keep, keep])$modulus)))
}
set.seed(5)
ladder <- stree(12, "left"); ladder$edge.length <- round(runif(nrow(ladder$edge), 0.2, 2), 3)
poly <- di2multi(compute.brlen(rtree(25), 1), 1e-8); poly$edge.length <- round(rexp(nrow(poly$edge)) + 0.05, 4)
poly <- collapse.singles(di2multi({p <- poly; p$edge.length[sample(which(p$edge[, 2] > Ntip(p)), 6)] <- 0; p}, 1e-8))
coal <- rcoal(30); unrooted <- unroot(rtree(20)); named <- rtree(8)
named$tip.label <- c("Homo_sapiens", "Pan paniscus", "it's", "a-b", "7", "x(y)", "Ä", "sp.")
named$node.label <- c("", paste0("clade", 1:6))
cases <- list(case("ladder", ladder), case("polytomies", poly), case("coalescent", coal), case("names", named),
              case("unrooted", unrooted, unrooted$tip.label[4]))
write_json(list(ape = unbox(as.character(packageVersion("ape"))), cases = cases), file.path(out, "ape_trees.json"), digits = 16, pretty = FALSE)
