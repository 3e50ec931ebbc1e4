#!/bin/sh
# Guess: Kenward and Roger's degrees of freedom of a fit with prior weights are those of the same model on rows that are
# multiplied by the roots of the weights: the two fits have one likelihood, one β̂ and one vcov.
# Seen (pbkrtest 0.5.2, lme4 1.1-31): of the weighted fit the weights are left out. sleepstudy with weights of 1 to 5
# has 1300 degrees of freedom for the slope, more than its 180 rows, and an adjusted error that is larger than it is;
# on the scaled rows they are 161, and the adjusted error is the plain one to six digits.
# Why it matters here: fit.coefficients("kenward-roger") of weighted rows in pm_fastlmm agrees with the second.
# Debian's packages of R's libraries are unpacked, not installed; R itself must be there.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
chmod 755 "$folder"
packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances r-cran-pbkrtest | grep '^r-cran' | sort -u | grep -v '^r-cran-pbkrtest$')
version=$(apt-cache madison r-cran-pbkrtest | awk '{print $3}' | grep '^0\.5\.2' | head -1)
# shellcheck disable=SC2086
apt-get download -q "r-cran-pbkrtest=$version" $packages >apt.log 2>&1
for package in *.deb; do dpkg -x "$package" root; done
R_LIBS="$folder/root/usr/lib/R/site-library:$folder/root/usr/lib/R/library" Rscript --vanilla - <<'R'
suppressMessages({library(lme4); library(pbkrtest)})
cat("pbkrtest", format(packageVersion("pbkrtest")), "lme4", format(packageVersion("lme4")), "\n")
table <- sleepstudy
table$w <- 1 + (seq_len(nrow(table)) * 7) %% 5
table <- transform(table, one = sqrt(w), d = Days * sqrt(w), r = Reaction * sqrt(w))
fits <- list(
  weighted = lmer(Reaction ~ Days + (1 | Subject), table, weights = w),
  scaled = lmer(r ~ 0 + one + d + (0 + one | Subject), table)
)
found <- sapply(fits, function(fit) c(
  beta = fixef(fit)[[2]], se = sqrt(vcov(fit)[2, 2]), adjusted = sqrt(vcovAdj(fit)[2, 2]), df = get_Lb_ddf(fit, c(0, 1))
))
print(signif(found, 7))
stopifnot(
  abs(found["beta", 1] - found["beta", 2]) < 1e-5, abs(found["se", 1] - found["se", 2]) < 1e-5,
  found["df", "weighted"] > 1000, abs(found["df", "scaled"] - 161) < 0.5,
  found["adjusted", "weighted"] > 1.002 * found["se", "weighted"]
)
R
echo "as found"
