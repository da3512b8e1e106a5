"""`glimp eval`: problems, graders, runs that can be killed and go on, and what is made of them."""
