"""The coupon service: campaigns, and the coupons users get, use and lose under them."""
