# Analysis of variance by lmerTest, marginal means and contrasts by emmeans (Debian r-cran-lmertest, r-cran-emmeans).
# usage: Rscript fixed_terms.R OUTDIR; writes fixed_terms.csv (the data) and fixed_terms.json
suppressMessages({library(lme4); library(lmerTest); library(emmeans); library(jsonlite)})
out <- commandArgs(TRUE)[1]
ctl <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-10, maxfun = 1e6))
set.seed(7)
n <- 90
d <- data.frame(g = sprintf("g%02d", sample(1:14, n, TRUE, prob = 1:14)), A = sample(c("a", "b", "c"), n, TRUE, prob = 3:1),
                B = sample(c("p", "q"), n, TRUE, prob = c(2, 1)), x = round(rnorm(n, 20, 4), 3))
u <- setNames(rnorm(14), sort(unique(d$g)))
d$y <- round(1 + 0.8 * (d$A == "b") + 0.5 * (d$A == "c") * (d$B == "q") + 0.1 * d$x + u[d$g] + rnorm(n), 5)
write.csv(d, file.path(out, "fixed_terms.csv"), row.names = FALSE)
numbers <- function(t) lapply(as.list(as.data.frame(t)), unname)
table_of <- function(t) c(list(term = rownames(t)), setNames(numbers(t), c("sum_sq", "mean_sq", "df_num", "df_den", "F", "p_value")))
means <- function(e, df) {
  s <- as.data.frame(summary(e, infer = TRUE))
  names(s) <- c("estimate", "SE", "df", "lower.CL", "upper.CL", "t.ratio", "p.value")[match(
    names(s), c(names(s)[!names(s) %in% c("A", "B", "x", "SE", "df", "lower.CL", "upper.CL", "t.ratio", "p.value", "contrast")],
    "SE", "df", "lower.CL", "upper.CL", "t.ratio", "p.value"))]
  s <- s[!is.na(names(s))]
  list(estimate = s$estimate, se = s$SE, df = s$df, lower = s$lower.CL, upper = s$upper.CL, t = s$t.ratio, p_value = s$p.value)
}
case <- function(name, formula, data, types = c("III", "II", "I"), ask = list()) {
  m <- lmer(formula, data, control = ctl)
  a <- list()
  for (type in types) a[[type]] <- table_of(anova(m, type = type))
  v <- as.data.frame(VarCorr(m))
  found <- list(name = unbox(name), formula = unbox(paste(deparse(formula), collapse = "")), rows = unbox(nrow(data)), variances = v$vcov,
                anova = a, kenward_roger = table_of(anova(m, ddf = "Kenward-Roger")))
  for (key in names(ask)) found$means[[key]] <- ask[[key]](m)
  found
}
sat <- function(m, ...) emmeans(m, ..., lmer.df = "satterthwaite")
cells <- subset(d, !(A == "c" & B == "q"))
results <- list(
  case("crossed", y ~ A * B + x + (1 | g), d, ask = list(
    A = function(m) means(sat(m, "A")), A_within_B = function(m) means(sat(m, ~ A | B)), A_and_B = function(m) means(sat(m, ~ B + A)),
    A_at_25 = function(m) means(sat(m, "A", at = list(x = 25))), A_kenward_roger = function(m) means(emmeans(m, "A")),
    pairs_A = function(m) means(pairs(sat(m, "A"))), pairs_A_within_B = function(m) means(pairs(sat(m, ~ A | B))),
    holm_A = function(m) means(contrast(sat(m, "A"), "trt.vs.ctrl", adjust = "holm")),
    none_A = function(m) means(contrast(sat(m, "A"), "trt.vs.ctrl", adjust = "none")))),
  case("slopes", y ~ A * x + B + (1 | g), d, ask = list(
    A = function(m) means(sat(m, "A")), A_by_x = function(m) means(sat(m, ~ x + A, at = list(x = c(18, 22)))))),
  case("nested", y ~ A + A:B + (1 | g), d),
  case("no_intercept", y ~ 0 + A + x + (1 | g), d, types = c("III", "I")),
  case("empty_cell", y ~ A * B + x + (1 | g), cells, types = "III", ask = list(
    A = function(m) means(sat(m, "A")), none_A_within_B = function(m) means(pairs(sat(m, ~ A | B), adjust = "none")))))
write(toJSON(results, digits = NA, pretty = TRUE, na = "null"), file.path(out, "fixed_terms.json"))
