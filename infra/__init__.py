"""The platform library: nothing in it knows coupons, points or sales."""
