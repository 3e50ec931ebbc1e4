"""The posterior of one kernel by quadrature."""
